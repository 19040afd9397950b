"""Tests; the folders mirror gns."""
