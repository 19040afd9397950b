"""Tests of gns.model."""
