"""Tests of gns.scene."""
