"""Everything that one training needs, settled: trial, fold and final run differ in nothing else."""

import hashlib

from pydantic import Field

from training.config import Section
from training.model import Model, Precision, Scratch
from training.objectives import CausalLanguageModel, Objective
from training.optimizers import Muon, Optimizer
from training.schedules import Schedule, WarmupStableDecay


class Learning(Section):
    """What a training turns."""

    optimizer: Optimizer = Muon()
    schedule: Schedule = WarmupStableDecay()
    batch_tokens: int | None = Field(
        default=None,
        ge=64,
        description="Tokens a step, over all workers. Larger steps are steadier and fewer. Empty: planned.",
    )
    context: int | None = Field(
        default=None,
        ge=16,
        le=65536,
        description="Tokens that the model sees at once; attention costs grow with it. Empty: planned.",
    )
    short_context: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the training at half the context, which is faster; 0 turns it off.",
    )
    precision: Precision = Field(
        default="auto", description="bf16 is several times faster where the hardware has it."
    )
    gradient_norm: float = Field(
        default=1.0, gt=0, description="Gradients longer than this are scaled down to it."
    )


class Blueprint(Section):
    """One training, settled: no field is left to be planned."""

    model: Model = Scratch()
    objective: Objective = CausalLanguageModel()
    learning: Learning = Learning()
    vocabulary: int
    start_token: int = 0
    seed: int = 0

    def fingerprint(self) -> str:
        """16 hexadecimal digits; a checkpoint of another blueprint is not resumed."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
