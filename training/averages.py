"""An average of the weights over the training, which may be better than the weights that it ends with."""

import math

import numpy as np
import torch
from torch import nn

from training.parts import own_part


class Average:
    """Exponential moving average whose memory grows with the training (Karras et al. 2024, section 3.1).

    `width` is the standard deviation of its memory, as a share of the training so far; so it wants no
    knowledge of when the training will end.
    """

    def __init__(self, model: nn.Module, width: float) -> None:
        self._model = model
        self.weights = {name: p.detach().clone().float() for name, p in model.named_parameters()}
        self._power = power_of(width)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the weights after `step` (from 1) in."""
        kept = (1 - 1 / step) ** (self._power + 1)
        theirs = {name: own_part(p.detach()) for name, p in self._model.named_parameters()}
        ours = [own_part(self.weights[name]) for name in theirs]  # a checkpoint keeps no order
        torch._foreach_lerp_(ours, list(theirs.values()), 1 - kept)


def power_of(width: float) -> float:
    """The exponent gamma of a power-function average of this relative width, in (0, 0.28]."""
    squared = width**-2
    return float(np.roots([1, 7, 16 - squared, 12 - squared]).real.max())


def width_of_power(power: float) -> float:
    """The relative width of a power-function average: the inverse of `power_of`."""
    return math.sqrt((power + 1) / ((power + 2) ** 2 * (power + 3)))
