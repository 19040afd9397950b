"""The two renderers behind one interface: native kernels on the CPU, and on an NVIDIA GPU."""
