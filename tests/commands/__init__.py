"""Tests of gns.commands."""
