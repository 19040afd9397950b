"""Tests of gns.sfm."""
