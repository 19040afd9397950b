"""Examples, comparisons and planted errors that tests and benchmarks share. Not imported by the product."""
