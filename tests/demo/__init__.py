"""Tests of gns.demo."""
