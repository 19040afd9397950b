"""Tests of gns.scene.readers."""
