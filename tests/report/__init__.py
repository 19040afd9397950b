"""Tests of gns.report."""
