"""For every test: torch on one thread, as in training, so that its workers do not spin against the renderer's."""

import torch

torch.set_num_threads(1)
