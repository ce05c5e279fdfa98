"""Models: `transformers` architectures, new or from a checkpoint, so that every one of ours loads anywhere."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from training.architectures import (
    CLASSES,
    HEAD_WIDTH,
    PRESETS,
    Head,
    Shape,
    checked_family,
    config_of,
    hidden_parameters,
    width_of,
)
from training.config import AnyOf, Choice
from training.fittings import attention_for, finish, narrow_residuals, output_projections, try_out
from training.footprint import flops_per_token
from training.pretrained import Pretrained

__all__ = [
    "HEAD_WIDTH",
    "Head",
    "Model",
    "Precision",
    "Pretrained",
    "Scratch",
    "Shape",
    "autocast",
    "count_parameters",
    "flops_per_token",
    "has_fast_bf16",
    "hidden_parameters",
    "narrow_residuals",
    "width_of",
]

DEEPEST = 64


class Scratch(Choice):
    """A new model of a known architecture, sized by one dial: its depth, or the weights that it comes to."""

    kind: Literal["scratch"] = "scratch"
    family: Annotated[str, AfterValidator(checked_family)] = Field(
        default="lfm2",
        description=f"Architecture. With sizes of ours: {', '.join(PRESETS)}, of which modernbert and bert are "
        "masked models; lfm2, convolutions below attention, learned fastest in our trials. Any other that"
        " transformers has, by its name there.",
        examples=list(PRESETS),
    )
    depth: int | None = Field(
        default=None,
        ge=1,
        le=DEEPEST,
        description="Layers; width follows. Empty: the plan takes the depth that the budget can feed.",
    )
    parameters: int | None = Field(
        default=None,
        ge=10_000,
        le=hidden_parameters(DEEPEST),
        description="Weights between the embeddings, instead of the depth: the nearest depth is taken.",
    )

    @model_validator(mode="after")
    def _one_dial(self) -> Self:
        if self.depth is not None and self.parameters is not None:
            raise ValueError(
                f"model.depth and model.parameters are one dial, and both are set: leave out one of them; "
                f"{self.parameters:,} weights are depth {nearest_depth(self.parameters)}"
            )
        return self

    def settled_depth(self) -> int | None:
        """The depth asked for, by itself or by parameters; None where the plan may choose."""
        return self.depth if self.parameters is None else nearest_depth(self.parameters)

    def with_depth(self, depth: int) -> Self:
        """The same model at this depth."""
        return self.model_copy(update={"depth": depth, "parameters": None})

    def config(self, shape: Shape) -> PreTrainedConfig:
        """The architecture's config at this depth.

        Raises ValueError while the depth is not settled, and for a head that the family has not.
        """
        depth = self.settled_depth()
        if depth is None:
            raise ValueError("model.depth is not settled: plan first, or set it")
        return config_of(self.family, depth, shape)

    def sketch(self, shape: Shape) -> PreTrainedModel:
        """The model without its weights: what it would weigh, at no cost."""
        with torch.device("meta"):
            model: PreTrainedModel = CLASSES[shape.head].from_config(self.config(shape))
        return model

    def build(self, shape: Shape, seed: int) -> PreTrainedModel:
        """A freshly initialised model; a preset's output projections start at zero.

        So it starts with each token on its own, and a causal one as a unigram. Raises ValueError
        as `config` does, and for an architecture that fails or sees what it is to predict.
        """
        torch.manual_seed(seed)
        config = self.config(shape)
        attention = attention_for(config, shape.attention)
        model: PreTrainedModel = CLASSES[shape.head].from_config(config, attn_implementation=attention)
        if self.family in PRESETS:
            with torch.no_grad():
                for module in output_projections(model):
                    nn.init.zeros_(module.get_parameter("weight"))
        else:
            try_out(model, shape)
        return finish(model, shape)


def nearest_depth(parameters: int) -> int:
    """The depth whose hidden weights come nearest."""
    return min(range(1, DEEPEST + 1), key=lambda depth: abs(hidden_parameters(depth) - parameters))


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 multiplies faster than fp32 here: GPUs from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


Precision = Literal["auto", "fp32", "bf16", "fp16"]


def autocast(
    device: torch.device, precision: Precision = "auto"
) -> Callable[[], AbstractContextManager[object]]:
    """Opens the arithmetic of a forward pass: products in 16 bits where asked for, or bf16 where fast; else fp32.

    fp16 wants scaled gradients beside it. Raises ValueError for fp16 on a CPU, which has no fast path for it.
    """
    if precision == "fp16":
        if device.type != "cuda":
            raise ValueError(f"fp16 has no fast path on a {device.type}: set learning.precision to auto")
        return partial(torch.autocast, device.type, dtype=torch.float16)
    bf16 = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return partial(torch.autocast, device.type, dtype=torch.bfloat16) if bf16 else nullcontext


def count_parameters(model: nn.Module) -> int:
    """All trainable weights, embeddings included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


Model = Annotated[
    Scratch | Pretrained,
    Field(discriminator="kind", description="Where the weights come from."),
    AnyOf(),
]
