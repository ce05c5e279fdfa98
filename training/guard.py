"""Watches a training's loss and gradient: what is not finite, or far out of line, is caught at its step."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WINDOW, SIGMAS = 128, 6.0  # steps that say what is in line, and how far out of line is too far
LEAST_SPREAD = 0.01  # relative; a flat stretch must not make every ripple a spike
MOST_SKIPPED = 8  # steps in a row, before the weights themselves are taken for bad


@dataclass
class Guard:
    """Remembers the last good steps, and objects to one that does not fit them.

    A finite spike is objected to only once WINDOW steps are known; in a row, only MOST_SKIPPED times:
    after that the loss has moved for good, or the weights have to go back.
    """

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    skipped: int = 0  # in a row
    rolled_back: int = 0
    length: int | None = None  # of the rows

    def expect(self, length: int) -> None:
        """Says how long the next step's rows are; where that changes, so does the level, and it looks afresh."""
        if length != self.length:
            self.forget()
            self.length = length

    def objection(self, loss: float, norm: float) -> str | None:
        """What is wrong with a step of this loss (nats) and gradient norm; None, and remembered, where nothing is."""
        wrong = _wrong("loss", loss, self.losses) or _wrong("gradient norm", norm, self.norms)
        if wrong is not None:
            self.skipped += 1
            return wrong
        self.skipped = 0
        self.losses.append(loss)
        self.norms.append(norm)
        return None

    @property
    def gives_up(self) -> bool:
        """Whether skipping has not helped."""
        return self.skipped >= MOST_SKIPPED

    def forget(self) -> None:
        """Starts to look at what is in line afresh."""
        self.losses.clear()
        self.norms.clear()
        self.skipped = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: floats survive JSON exactly."""
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "skipped": self.skipped,
            "rolled_back": self.rolled_back,
            "length": self.length,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Guard":
        """The guard that `state` was taken of."""
        return cls(
            deque(state["losses"], WINDOW),
            deque(state["norms"], WINDOW),
            state["skipped"],
            state["rolled_back"],
            state["length"],
        )


def _wrong(what: str, value: float, known: deque[float]) -> str | None:
    if not math.isfinite(value):
        return f"{what} is {value}"
    if len(known) < WINDOW or value <= 0:
        return None
    logarithms = np.log(
        np.maximum(known, 1e-30)
    )  # ratios count: a loss falls from 8 to 1, a norm varies more
    mean, spread = float(logarithms.mean()), max(float(logarithms.std()), LEAST_SPREAD)
    sigmas = (math.log(value) - mean) / spread
    if sigmas <= SIGMAS:
        return None
    return f"{what} of {value:.4g} is {sigmas:.1f} sigma above the {WINDOW} steps before"
