"""Tests of gns.exports."""
