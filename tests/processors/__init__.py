"""The kernels on other processors."""
