import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import tunable_fields, with_fields
from training.optimizers import SGD, Adam, AdamW, Muon, Optimizer, Optimizers, hidden_matrices
from training.state import Position, State

MEMBERS = get_args(get_args(Optimizer)[0])
DECAYING = [(member, "weight_decay" if "weight_decay" in member.model_fields else "l2") for member in MEMBERS]
WIDTH, VOCABULARY, LABELS = 32, 61, 3
CAUSAL = ("nanochat", "llama", "qwen3", "gpt2", "lfm2", "mamba2")
MASKED = ("bert", "modernbert")
CLASSIFIERS = ("llama", "qwen3", "gpt2", "bert", "modernbert")
MATRICES = {  # of two layers, without embeddings, output layer, classifier and convolutions
    "nanochat": 2 * 6,
    "llama": 2 * 7,
    "qwen3": 2 * 7,
    "gpt2": 2 * 4,
    "lfm2": 2 + 4 + 2 * 3,
    "mamba2": 2 * 2,
    "bert": 2 * 6 + 1,
    "modernbert": 2 * 4 + 1,
}


def tiny(family: str, head: Any = AutoModelForCausalLM, **settings: Any) -> PreTrainedModel:
    """Two layers of 32."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "num_labels": LABELS}
    shared |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    shared |= {"attention_dropout": 0.0, "embedding_dropout": 0.0, "hidden_dropout_prob": 0.0}
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "gpt2":
        sizes = {
            "n_embd": WIDTH,
            "n_layer": 2,
            "n_head": 2,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }
    elif family == "mamba2":
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "n_groups": 1}
        sizes |= {"state_size": 8, "chunk_size": 8}
    elif family in CAUSAL:
        sizes |= {"num_key_value_heads": 2, "intermediate_size": 2 * WIDTH, "head_dim": 16}
    else:
        sizes |= {"intermediate_size": 2 * WIDTH}
    if family == "lfm2":
        sizes["layer_types"] = ["conv", "full_attention"]
    if family == "modernbert":
        shared |= {"cls_token_id": 0, "sep_token_id": 0}
    config = AutoConfig.for_model(family, **{**shared, **sizes, **settings})
    model: PreTrainedModel = head.from_config(config, attn_implementation="eager")
    return model


def tokens_of(step: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (4, 17), generator=torch.Generator().manual_seed(step))


def learn(model: torch.nn.Module, optimizers: Optimizers, batches: list[torch.Tensor]) -> list[float]:
    """A step on each batch; the loss in nats before each."""
    losses = []
    for tokens in batches:
        logits = model(input_ids=tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def state_of(model: PreTrainedModel, member: type[AdamW]) -> State:
    return State(model, member().build(model), torch.amp.GradScaler("cpu", enabled=False))


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("family", CAUSAL)
def test_every_parameter_is_in_exactly_one_group(member: type[AdamW], family: str) -> None:
    model = tiny(family)
    grouped = [p for o in member().build(model) for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("member", MEMBERS)
def test_frozen_parameters_are_left_alone(member: type[AdamW]) -> None:
    model = tiny("nanochat")
    frozen = [p.requires_grad_(False) for p in model.base_model.layers[0].parameters()]
    grouped = {id(p) for o in member().build(model) for group in o.param_groups for p in group["params"]}
    assert frozen and not grouped & {id(p) for p in frozen}


@pytest.mark.parametrize("member", MEMBERS)
def test_a_fixed_batch_is_learned(member: type[AdamW]) -> None:
    model = tiny("nanochat")
    losses = learn(model, member().build(model), [tokens_of(0)] * 41)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("family", ["nanochat", "gpt2", "mamba2"])
def test_a_checkpoint_changes_no_bit_of_what_follows(
    member: type[AdamW], family: str, tmp_path: Path
) -> None:
    undisturbed = tiny(family)
    learn(undisturbed, member().build(undisturbed), [tokens_of(step) for step in range(10)])

    first, second = (state_of(tiny(family), member) for _ in range(2))
    learn(first.model, first.optimizers, [tokens_of(step) for step in range(5)])
    path = save_checkpoint(tmp_path, Position(5, 0, 0, 0.0, "recipe"), first)
    load_checkpoint(path, second)
    learn(second.model, second.optimizers, [tokens_of(step) for step in range(5, 10)])

    for mine, its in zip(undisturbed.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_rate_of_zero_moves_nothing(member: type[AdamW]) -> None:
    """The schedule turns `lr` of every group, and nothing else steps the weights."""
    model = tiny("gpt2")
    optimizers = member().build(model)
    before = [p.detach().clone() for p in model.parameters()]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    learn(model, optimizers, [tokens_of(0)])
    assert all(torch.equal(p, was) for p, was in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(("member", "field"), DECAYING)
def test_matrices_decay_and_gains_do_not(member: type[AdamW], field: str) -> None:
    optimizers = member.model_validate({field: 0.3}).build(tiny("qwen3"))  # has gains, too
    decays = {
        p: group["weight_decay"] for o in optimizers for group in o.param_groups for p in group["params"]
    }
    assert {decay for p, decay in decays.items() if p.ndim < 2} == {0}
    assert max(decays.values()) == pytest.approx(0.3)


@pytest.mark.parametrize("member", [SGD, Adam])
def test_l2_joins_the_gradient(member: type[SGD]) -> None:
    """Without a loss, the penalty alone pulls matrices towards zero, and leaves gains where they are."""
    model = tiny("qwen3")
    optimizers = member(l2=0.1).build(model)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizers[0].step()
    for p, was in zip(model.parameters(), before, strict=True):
        assert p.norm() < was.norm() if p.ndim >= 2 else torch.equal(p, was)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_search_may_set_anything_in_its_ranges(member: type[AdamW]) -> None:
    for name, tune in tunable_fields(member()).items():
        assert tune.low < getattr(member(), name) < tune.high
        for value in (tune.low, 0.37 * tune.low + 0.63 * tune.high, tune.high):
            assert getattr(with_fields(member(), {name: value}), name) == value


def test_looking_ahead_without_momentum_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValidationError, match="nesterov to false"):
        SGD(momentum=0.0)
    assert SGD(momentum=0.0, nesterov=False).build(tiny("nanochat"))


def matrices_of(model: PreTrainedModel) -> set[int]:
    return {id(p) for matrices in hidden_matrices(model).values() for p in matrices}


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("tied", [False, True])
def test_muon_leaves_embeddings_and_output_to_adamw(family: str, tied: bool) -> None:
    model = tiny(family, tie_word_embeddings=tied)
    adamw, muon = Muon().build(model)
    assert isinstance(adamw, torch.optim.AdamW)
    matrices = {id(p): p for group in muon.param_groups for p in group["params"]}
    edges = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    assert len(edges) == (1 if tied else 2)
    assert not matrices.keys() & edges
    assert len(matrices) == MATRICES[family]
    assert all(p.ndim == 2 for p in matrices.values())


@pytest.mark.parametrize("family", MASKED)
def test_muon_takes_the_matrices_of_masked_models(family: str) -> None:
    model = tiny(family, AutoModelForMaskedLM)
    assert len(matrices_of(model)) == MATRICES[family]
    assert id(model.get_output_embeddings().weight) not in matrices_of(model)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_muon_leaves_the_classifier_to_adamw(family: str) -> None:
    model = tiny(family, AutoModelForSequenceClassification)
    last = [p for p in model.parameters() if p.ndim == 2 and p.shape[0] == LABELS]
    assert len(last) == 1
    assert id(last[0]) not in matrices_of(model)
    assert len(matrices_of(model)) == MATRICES[family]


def test_as_many_labels_as_the_model_is_wide_confuse_nobody() -> None:
    model = tiny("llama", AutoModelForSequenceClassification, num_labels=WIDTH)
    assert len(matrices_of(model)) == MATRICES["llama"]


def test_muon_steps_gpt2s_matrices_as_it_would_the_other_way_round() -> None:
    """One whose inputs come first moves as its transpose in a Linear does, decay included."""
    gradient = torch.randn(WIDTH, 4 * WIDTH, generator=torch.Generator().manual_seed(0))
    model = tiny("gpt2")
    lying = model.base_model.h[0].mlp.c_fc.weight
    upright = torch.nn.Linear(WIDTH, 4 * WIDTH)
    upright.weight.data.copy_(lying.data.T)
    lying.grad, upright.weight.grad = gradient, gradient.T.contiguous()
    Muon(weight_decay=0.5).build(model)[1].step()
    reference = torch.optim.Muon([upright.weight], lr=Muon().learning_rate, weight_decay=0.5)
    reference.step()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(lying.data, upright.weight.data.T, rtol=0, atol=1e-6)
    assert set(hidden_matrices(model)) == {1.0, 2.0, 0.5, math.sqrt(3)}
