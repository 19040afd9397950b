"""Tests of gns.appearance."""
