"""What is minimised: one term a file."""

from gns.losses.photometric import photometric_loss

__all__ = ["photometric_loss"]
