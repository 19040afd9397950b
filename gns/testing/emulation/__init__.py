"""A GPU without a GPU: what NVRTC makes of the kernels executed on the CPU, and a driver and tensors to go with it."""
