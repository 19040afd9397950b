"""Tests of gns.gaussian_renderer.backends."""
