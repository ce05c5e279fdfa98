"""What a model is said to cost is what it costs."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from training.architectures import PRESETS, heads_of
from training.budget import training_flops_per_token
from training.footprint import training_bytes
from training.model import Scratch, Shape, autocast, flops_per_token, hidden_parameters

VOCABULARY, CONTEXT, ROWS, DEPTH = 1024, 128, 2, 4


def model_of(family: str, sketch: bool = False) -> PreTrainedModel:
    shape = Shape(head=heads_of(family)[0], vocabulary=VOCABULARY, context=CONTEXT, labels=("a", "b"))
    start = Scratch(family=family, depth=DEPTH)
    return start.sketch(shape) if sketch else start.build(shape, seed=0)


def kept_bytes(model: PreTrainedModel, half: bool) -> int:
    """Bytes of all tensors that a forward pass keeps for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens_BT = torch.randint(VOCABULARY, (ROWS, CONTEXT))
    given: dict[str, Any] = {"use_cache": False} if "causal" in heads_of(model.config.model_type) else {}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        with autocast(torch.device("cpu"), "bf16" if half else "fp32")():
            logits_BTV = model(input_ids=tokens_BT, **given).logits
        nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), tokens_BT.flatten())
    return sum(size for address, size in found.items() if address not in weights)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("family", PRESETS)
def test_memory_is_foretold_from_a_sketch(family: str, half: bool) -> None:
    sketch = model_of(family, sketch=True)
    weights = training_bytes(sketch, 0, CONTEXT, half_precision=half)
    assert weights == sum(p.numel() for p in sketch.parameters()) * (18 if half else 16)
    foretold = training_bytes(sketch, ROWS, CONTEXT, half_precision=half) - weights
    assert 0.75 < foretold / kept_bytes(model_of(family), half) < (1.6 if family == "bert" else 1.35)
    assert training_bytes(sketch, ROWS, CONTEXT, half_precision=half, checkpointing=True) < foretold + weights


def test_flops_count_what_multiplies() -> None:
    sketch = model_of("nanochat", sketch=True)
    multiplied = hidden_parameters(DEPTH) + 192 * VOCABULARY  # without the input embedding
    assert flops_per_token(sketch, 64) == training_flops_per_token(multiplied, DEPTH, 192, 64)


@pytest.mark.parametrize(
    ("family", "spans"),
    [
        ("lfm2", 1000),  # the last of four layers attends
        ("mamba2", 0),
        ("modernbert", 2 * 1000 + 2 * 128),  # windows of 128 in two of four layers
        ("bert", 4 * 1000),
    ],
)
def test_flops_count_only_what_attention_sees(family: str, spans: int) -> None:
    sketch = model_of(family, sketch=True)
    with_attention, without = flops_per_token(sketch, 1000), flops_per_token(sketch, 0)
    assert with_attention - without == 12 * 192 * spans
    assert without == pytest.approx(6 * (hidden_parameters(DEPTH) + 192 * VOCABULARY), rel=0.1)
