"""Everything of a training that a checkpoint holds."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from training.averages import Average
from training.guard import Guard
from training.optimizers import Optimizers

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Position:
    """How far a training is, apart from its tensors."""

    step: int
    tokens: int
    place: int  # in the data, in the units of its source
    used_seconds: float
    fingerprint: str


@dataclass
class Best:
    """The best weights that a look at held-out text has found, and how many looks ago that was."""

    patience: int
    score: float | None = None
    weights: Weights = field(default_factory=dict)
    waited: int = 0

    def look(self, score: float, model: nn.Module) -> bool:
        """Takes a score in; whether patience is at its end."""
        if self.score is None or score < self.score:
            self.score, self.waited = score, 0
            self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        else:
            self.waited += 1
        return self.waited >= self.patience


@dataclass
class State:
    """The parts of a training that change from step to step."""

    model: nn.Module
    optimizers: Optimizers
    scaler: torch.amp.GradScaler
    guard: Guard = field(default_factory=Guard)
    average: Average | None = None
    best: Best | None = None

    def extras(self) -> dict[str, Weights]:
        """Further sets of weights, by the name of their file."""
        found = {"average": self.average.weights} if self.average else {}
        return found | ({"best": self.best.weights} if self.best and self.best.weights else {})

    def facts(self) -> dict[str, Any]:
        """What is no tensor, as JSON values."""
        best = {"score": self.best.score, "waited": self.best.waited} if self.best else None
        return {"guard": self.guard.state(), "best": best, "scaler": self.scaler.state_dict()}

    def put_back(self, facts: dict[str, Any], extras: dict[str, Weights]) -> None:
        """Takes `facts()` and `extras()` of a checkpoint in."""
        self.guard = Guard.from_state(facts["guard"])
        self.scaler.load_state_dict(facts["scaler"])
        if self.average:
            loaded = extras["average"]  # in the file's order; the average goes by the model's
            self.average.weights = {name: loaded[name] for name in self.average.weights}
        if self.best and facts["best"]:
            self.best.score, self.best.waited = facts["best"]["score"], facts["best"]["waited"]
            self.best.weights = extras.get("best", {})
