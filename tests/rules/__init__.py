"""Tests of gns.rules."""
