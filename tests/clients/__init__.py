"""Tests of benchmarks.clients."""
