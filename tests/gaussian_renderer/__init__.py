"""Tests of gns.gaussian_renderer."""
