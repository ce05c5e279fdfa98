"""How the learning rate goes: a factor in [0, 1] as a function of progress in [0, 1].

Progress is that before a step, so the first step of all has none: a rate that rose from zero would
waste it. Where it rises, it starts at FIRST_RATE instead.
"""

import math
from typing import Annotated, Literal

from pydantic import Field

from training.config import AnyOf, Choice, Tune

FIRST_RATE = 0.1  # of the full one; by eye: ten steps of warm-up, as a run of minutes has, start there anyway

Warmup = Annotated[
    float,
    Field(
        ge=0,
        le=0.5,
        description="Share of the training in which the rate rises; none may diverge at the start.",
    ),
]
Floor = Annotated[
    float, Field(ge=0, lt=1, description="Factor at the end; above zero leaves noise in the weights.")
]


class Constant(Choice):
    """The same rate throughout; the weights end noisier than after a decay."""

    kind: Literal["constant"] = "constant"
    warmup: Warmup = 0.0

    def rate(self, progress: float) -> float:
        return _rise(progress, self.warmup)


class Step(Choice):
    """Falls at once by a factor, several times, evenly spread (as He et al. 2016 trained)."""

    kind: Literal["step"] = "step"
    warmup: Warmup = 0.01
    drops: int = Field(
        default=3, ge=1, le=100, description="How often the rate falls; the parts between are equally long."
    )
    factor: Annotated[float, Tune(0.1, 0.7)] = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="What is left of the rate after a drop; all drops together end low.",
    )

    def rate(self, progress: float) -> float:
        done = min(self.drops, int(progress * (self.drops + 1)))
        return _rise(progress, self.warmup) * self.factor**done


class Exponential(Choice):
    """Falls by the same share in equal times: early quickly, then hardly."""

    kind: Literal["exponential"] = "exponential"
    warmup: Warmup = 0.01
    floor: Annotated[float, Tune(1e-3, 0.1, log=True)] = Field(
        default=0.01,
        ge=1e-6,
        lt=1,
        description="Factor at the end; the lower, the sooner most of the rate is gone.",
    )

    def rate(self, progress: float) -> float:
        return _rise(progress, self.warmup) * math.pow(self.floor, _done(progress, self.warmup))


class Linear(Choice):
    """Rises, then falls evenly to the end."""

    kind: Literal["linear"] = "linear"
    warmup: Warmup = 0.01
    floor: Floor = 0.0

    def rate(self, progress: float) -> float:
        fall = 1 - _done(progress, self.warmup)
        return _rise(progress, self.warmup) * (self.floor + (1 - self.floor) * fall)


class Cosine(Choice):
    """Rises, then falls along half a cosine (Loshchilov and Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"
    warmup: Warmup = 0.02
    floor: Floor = 0.0

    def rate(self, progress: float) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * _done(progress, self.warmup)))
        return _rise(progress, self.warmup) * (self.floor + (1 - self.floor) * fall)


class WarmupStableDecay(Choice):
    """Rises, holds, and falls linearly to zero over the last part (Hu et al. 2024)."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    warmup: Warmup = 0.01
    decay: Annotated[float, Tune(0.3, 0.8)] = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of the training in which the rate falls; too little leaves noise in the weights.",
    )

    def rate(self, progress: float) -> float:
        fall = (1 - progress) / self.decay
        return max(0.0, min(_rise(progress, self.warmup), fall))


def _rise(progress: float, warmup: float) -> float:
    """From FIRST_RATE to 1 over the warm-up."""
    return FIRST_RATE + (1 - FIRST_RATE) * progress / warmup if progress < warmup else 1.0


def _done(progress: float, warmup: float) -> float:
    """How far the part after the warm-up is, in [0, 1]."""
    return min(1.0, max(0.0, (progress - warmup) / (1 - warmup)))


Schedule = Annotated[
    Constant | Step | Exponential | Linear | Cosine | WarmupStableDecay,
    Field(
        discriminator="kind",
        description="How the learning rate moves over the budget. One that does not fall ends with a worse model.",
    ),
    AnyOf(),
]
