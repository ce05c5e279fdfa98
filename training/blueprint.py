"""Everything that one training needs, settled: trial, fold and final run differ in nothing else."""

import hashlib
import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from transformers import PreTrainedModel

from training.attention import NAME as BLOCKWISE
from training.augmentation import Augmentation, each_once
from training.batch import Facts
from training.config import Section, Tune
from training.model import Model, Precision, Scratch, Shape
from training.objectives import CausalLanguageModel, Objective
from training.optimizers import Muon, Optimizer
from training.parallel import DDP, Strategy
from training.schedules import Schedule, WarmupStableDecay

Attention = Literal["auto", "eager", "blockwise", "sdpa", "flex_attention", "flash_attention_2"]


class Learning(Section):
    """What a training turns."""

    optimizer: Optimizer = Muon()
    schedule: Schedule = WarmupStableDecay()
    batch_tokens: int | None = Field(
        default=None,
        ge=64,
        le=2**26,
        description="Tokens a step, over all workers. Larger steps are steadier and fewer. Empty: planned.",
    )
    micro_batch_tokens: int | None = Field(
        default=None,
        ge=16,
        le=2**26,
        description="Tokens that a worker takes at once; gradients add up to the whole step. Less takes less memory."
        " Empty: all, and half of it each time that memory runs out.",
    )
    context: int | None = Field(
        default=None,
        ge=16,
        le=65536,
        description="Tokens that the model sees at once; attention costs grow with it. Empty: planned.",
    )
    epochs: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="At most so many passes over the text: a training that has made them ends before its time."
        " Empty: planned, three for classifiers, and as many as there is time for where text is predicted.",
    )
    short_context: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the training at half the context, which is faster; 0 turns it off.",
    )
    packing: Literal["blocks", "documents"] = Field(
        default="blocks",
        description="Rows are full either way, without padding. With documents, attention ends where a document does.",
    )
    dropout: Annotated[float | None, Tune(0.0, 0.3)] = Field(
        default=None,
        ge=0,
        lt=1,
        description="Share of what each layer says that is left out, at random: helps where text is seen many times."
        " Empty: planned, by how often it is.",
    )
    l1: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight of the sum of all matrices' absolute entries in the loss: pulls small ones to zero.",
    )
    label_smoothing: Annotated[float, Tune(0.0, 0.2)] = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the target spread over all other answers: less sure, often better calibrated.",
    )
    augmentation: Annotated[tuple[Augmentation, ...], AfterValidator(each_once)] = Field(
        default=(),
        description="How labelled documents are told otherwise each time that they are seen, one way after the other:"
        " few of them are then not learned by heart. Of many, it only makes learning slower.",
    )
    gradient_norm: float = Field(
        default=1.0, gt=0, le=1e30, description="Gradients longer than this are scaled down to it."
    )
    average: Annotated[float | None, Tune(0.02, 0.2)] = Field(
        default=None,
        gt=0,
        le=0.28,
        description="Width of a moving average of the weights, as a share of the training; kept if it scores better."
        " Empty: none.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Looks at validation text without a better score, after which the training ends and goes back to"
        " its best. Empty: it goes on to its end.",
    )
    precision: Precision = Field(
        default="auto",
        description="bf16 is several times faster where the hardware has it; fp16 is for older GPUs.",
    )
    attention: Attention = Field(
        default="auto", description="How attention is computed; auto measures which is fastest here."
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Computes layers twice instead of keeping them: less memory, a third slower.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compiling takes up to a minute, and then saves 0 to 13 % on a CPU, more on a GPU.",
    )
    strategy: Strategy = Field(
        default=DDP(),
        description="How several workers share the final run. Trials and folds have a worker each, and are not shared.",
    )

    def most_tokens(self, text: int) -> float:
        """Tokens after which a training on a text of so many has made its epochs; infinite where they are open."""
        return math.inf if self.epochs is None else self.epochs * text


class Blueprint(Section):
    """One training, settled: no field is left to be planned."""

    model: Model = Scratch()
    objective: Objective = CausalLanguageModel()
    learning: Learning = Learning()
    vocabulary: int
    start_token: int = 0
    mask_token: int | None = None
    labels: tuple[str, ...] = ()
    data: str = ""  # the key of tokens and tokenizer
    seed: int = 0

    def fingerprint(self) -> str:
        """16 hexadecimal digits; a checkpoint of another blueprint, data or tokenizer is not resumed.

        How many workers there are, and how they share the work, changes no result: it is not part of it.
        """
        told = self.model_dump_json(exclude={"learning": {"strategy"}})
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def settled(self) -> tuple[int, int]:
        """Context and tokens a step. Raises ValueError while they are left to the plan."""
        if self.learning.context is None or self.learning.batch_tokens is None:
            raise ValueError(
                "learning.context and learning.batch_tokens are not settled: plan first, or set them"
            )
        return self.learning.context, self.learning.batch_tokens

    def facts(self) -> Facts:
        """What the objective must know."""
        context, batch_tokens = self.settled()
        return Facts(
            seed=self.seed,
            context=context,
            batch_tokens=batch_tokens,
            vocabulary=self.vocabulary,
            start_token=self.start_token,
            mask_token=self.mask_token,
            confined=self.learning.packing == "documents",
            augmentation=self.learning.augmentation,
        )

    def shape(self, device: str = "cpu") -> Shape:
        """What the data, the objective and the learning ask of the model."""
        attention: str = self.learning.attention
        if attention == "auto":  # no plan has measured it
            blocks = device == "cpu" and self.objective.head == "causal"
            attention = BLOCKWISE if blocks else "eager" if device == "cpu" else "sdpa"
        return Shape(
            head=self.objective.head,
            vocabulary=self.vocabulary,
            context=self.settled()[0],
            start_token=self.start_token,
            mask_token=self.mask_token,
            pad_token=self.start_token,
            labels=self.labels,
            dropout=self.learning.dropout or 0.0,
            attention=attention,
            activation_checkpointing=self.learning.activation_checkpointing,
        )

    def build(self, device: str = "cpu") -> PreTrainedModel:
        """The model that the training starts from."""
        return self.model.build(self.shape(device), self.seed)
