"""Tests of gns.training."""
