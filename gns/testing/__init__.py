"""Examples, comparisons and the CUDA kernels on the CPU, for tests and benchmarks. Not imported by the product."""
