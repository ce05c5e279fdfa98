"""How the learning rate goes: a factor in [0, 1] as a function of progress in [0, 1]."""

import math
from typing import Annotated, Literal

from pydantic import Field

from training.config import AnyOf, Choice, Tune


class WarmupStableDecay(Choice):
    """Rises, holds, and falls linearly to zero over the last part (Hu et al. 2024)."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    warmup: float = Field(
        default=0.01,
        ge=0,
        le=0.5,
        description="Share of the training in which the rate rises; none may diverge at the start.",
    )
    decay: Annotated[float, Tune(0.3, 0.8)] = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of the training in which the rate falls; too little leaves noise in the weights.",
    )

    def rate(self, progress: float) -> float:
        rise = progress / self.warmup if self.warmup else 1.0
        fall = (1 - progress) / self.decay
        return max(0.0, min(1.0, rise, fall))


class Cosine(Choice):
    """Rises, then falls along half a cosine (Loshchilov and Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"
    warmup: float = Field(
        default=0.02, ge=0, le=0.5, description="Share of the training in which the rate rises."
    )
    floor: float = Field(
        default=0.0, ge=0, lt=1, description="Factor at the end; above zero leaves noise in the weights."
    )

    def rate(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        done = (progress - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Constant(Choice):
    """The same rate throughout; the weights end noisier than after a decay."""

    kind: Literal["constant"] = "constant"

    def rate(self, progress: float) -> float:
        return 1.0


Schedule = Annotated[WarmupStableDecay | Cosine | Constant, Field(discriminator="kind"), AnyOf()]
