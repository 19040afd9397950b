"""Compact 3D Gaussian Splatting by gradient-driven natural selection."""

__version__ = "0.1.0"
