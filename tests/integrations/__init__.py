"""Tests of the adapters for other programs."""
