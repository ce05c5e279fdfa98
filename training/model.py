"""Models: `transformers` architectures built from config, so that every checkpoint loads anywhere."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from training.budget import training_flops_per_token
from training.config import Choice

HEAD_WIDTH = 64
# What an architecture calls the projections that write into its residual stream.
OUTPUT_PROJECTIONS = ("o_proj", "down_proj", "fc2", "c_proj")


Head = Literal["causal", "masked", "classification"]


@dataclass(frozen=True)
class Shape:
    """What the data, the objective and the learning ask of a model."""

    vocabulary: int
    context: int
    head: Head = "causal"
    start_token: int = 0
    mask_token: int | None = None
    pad_token: int = 0
    labels: tuple[str, ...] = ()
    dropout: float = 0.0
    attention: str = "eager"
    activation_checkpointing: bool = False


class Scratch(Choice):
    """A new model of a known architecture, sized by one dial: its depth."""

    kind: Literal["scratch"] = "scratch"
    family: Literal["nanochat", "llama", "qwen3", "gpt2"] = Field(
        default="nanochat",
        description="Architecture, as transformers names it. nanochat learned fastest in our trials.",
    )
    depth: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Layers; width follows. Empty: the plan takes the depth that the budget can feed.",
    )

    def config(self, shape: Shape) -> PreTrainedConfig:
        """The architecture's config at this depth; raises ValueError while the depth is not settled."""
        vocabulary, context, start_token = shape.vocabulary, shape.context, shape.start_token
        if self.depth is None:
            raise ValueError("model.depth is not settled: plan first, or set it")
        width = width_of(self.depth)
        heads = width // HEAD_WIDTH
        shared = {
            "vocab_size": vocabulary,
            "bos_token_id": start_token,
            "eos_token_id": start_token,
            "pad_token_id": start_token,
            "tie_word_embeddings": False,
            "use_cache": True,
        }
        if self.family == "gpt2":
            sizes: dict[str, float] = {
                "n_embd": width,
                "n_layer": self.depth,
                "n_head": heads,
                "n_positions": context,
            }
            sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        else:
            gated = self.family in ("llama", "qwen3")
            sizes = {
                "hidden_size": width,
                "num_hidden_layers": self.depth,
                "num_attention_heads": heads,
                "num_key_value_heads": heads,
                "head_dim": HEAD_WIDTH,
                "intermediate_size": (8 * width // 3 + 63) // 64 * 64 if gated else 4 * width,
                "max_position_embeddings": context,
            }
            if self.family == "nanochat":
                sizes.pop("head_dim")
        return AutoConfig.for_model(self.family, **shared, **sizes)

    def build(self, shape: Shape, seed: int) -> PreTrainedModel:
        """A freshly initialised model; its output projections start at zero, so that it starts as a unigram."""
        torch.manual_seed(seed)
        config = self.config(shape)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=shape.attention)
        with torch.no_grad():
            for name, module in model.named_modules():
                if name.rsplit(".", 1)[-1] in OUTPUT_PROJECTIONS:
                    module.weight.zero_()
        return model


def width_of(depth: int) -> int:
    """Three quarters of a head of 64 for each layer, at least one head: 4 layers of 192, 12 of 576."""
    return HEAD_WIDTH * max(1, math.ceil(0.75 * depth))


def hidden_parameters(depth: int) -> int:
    """Weights between the embeddings: 12 * depth * width^2."""
    return 12 * depth * width_of(depth) ** 2


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
    """Opens the arithmetic of a forward pass: bf16 products where asked for, or fast; else fp32."""
    bf16 = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return partial(torch.autocast, device.type, dtype=torch.bfloat16) if bf16 else nullcontext


def narrow_residuals(model: PreTrainedModel) -> None:
    """Under autocast, what layers add to is as narrow as what they say: embeddings come out in its type.

    Otherwise the sum stays in fp32 and every layer widens and narrows again: a tenth of a step on a CPU.
    """

    def narrow(module: nn.Module, inputs: object, embedded: torch.Tensor) -> torch.Tensor:
        kind = embedded.device.type
        return embedded.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else embedded

    model.get_input_embeddings().register_forward_hook(narrow)


def flops_per_token(model: PreTrainedModel, context: int) -> float:
    """FLOPs that training takes for one token; see `training_flops_per_token`."""
    config = model.config
    embedding = model.get_input_embeddings().weight.numel()
    multiplied = count_parameters(model) - (0 if config.tie_word_embeddings else embedding)
    return training_flops_per_token(
        multiplied, int(config.num_hidden_layers), int(config.hidden_size), context
    )


def count_parameters(model: nn.Module) -> int:
    """All trainable weights, embeddings included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


Model = Annotated[Scratch, Field(description="Where the weights come from.")]
