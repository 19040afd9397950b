"""Tests of gns.utils."""
