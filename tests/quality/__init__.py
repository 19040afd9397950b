"""benchmarks/quality.py and its report."""
