"""Those who watch a run: one file each."""

from gns.training.listeners.bar import Bar
from gns.training.listeners.checkpoints import Checkpoints
from gns.training.listeners.held_out import HeldOut
from gns.training.listeners.log import Log
from gns.training.listeners.models import Models
from gns.training.listeners.stop import Stop
from gns.training.listeners.tensorboard import TensorBoard

__all__ = ["Bar", "Checkpoints", "HeldOut", "Log", "Models", "Stop", "TensorBoard"]
