"""Tests of gns.losses."""
