"""What is minimised: one term a file."""

from collections.abc import Callable

from torch import Tensor

from gns.gaussian_renderer.output import RenderOutput
from gns.losses.photometric import dissimilarity, photometric_loss
from gns.scene.view import View

__all__ = ["Loss", "dissimilarity", "photometric_loss"]

# A term to add to the photometric loss: a differentiable scalar of what was rendered and of the view it imitates.
Loss = Callable[[RenderOutput, View], Tensor]
