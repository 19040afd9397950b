"""The blocks of `benchmarks/gpu_verify.py`, one a file, each a function of the file's name."""
