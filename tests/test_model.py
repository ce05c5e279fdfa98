"""Every family with every head that it has: it loads anywhere, it learns, and drops in training only."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from training.architectures import PRESETS, Head, heads_of, packs
from training.fittings import output_projections
from training.model import (
    Model,
    Pretrained,
    Scratch,
    Shape,
    autocast,
    count_parameters,
    hidden_parameters,
    width_of,
)

PAIRS = [(family, head) for family in PRESETS for head in heads_of(family)]
VOCABULARY, CONTEXT, MASK = 61, 16, 60
CPU = torch.device("cpu")


def shape(head: Head = "causal", **settings: Any) -> Shape:
    asked: dict[str, Any] = {
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "mask_token": MASK,
        "labels": ("no", "so", "yes"),
    }
    return Shape(head=head, **(asked | settings))


def shaken(model: PreTrainedModel, std: float = 0.05) -> PreTrainedModel:
    """The model with no weight left at zero, which would hide differences."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def batch(head: Head) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Eight rows and what they should say; those to be classified are padded."""
    dice = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(1, MASK, (8, CONTEXT + 1), generator=dice)
    tokens_BT[:, 0] = 0
    inputs_BT = tokens_BT[:, :-1].clone()
    if head == "causal":
        return {"input_ids": inputs_BT}, tokens_BT[:, 1:]
    if head == "masked":
        hidden_BT = torch.rand(8, CONTEXT, generator=dice) < 0.3
        targets_BT = torch.where(hidden_BT, inputs_BT, -100)
        return {"input_ids": inputs_BT.masked_fill(hidden_BT, MASK)}, targets_BT
    mask_BT = (torch.arange(CONTEXT) < torch.arange(8, 16)[:, None]).long()
    return {"input_ids": inputs_BT * mask_BT, "attention_mask": mask_BT}, torch.arange(8) % 3


def loss_of(model: PreTrainedModel, head: Head) -> torch.Tensor:
    inputs, targets = batch(head)
    logits = model(**inputs).logits.float()
    return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


BARE = """
import sys, pathlib, torch, transformers
from safetensors.torch import load_file, save_file
torch.set_num_threads(int(sys.argv[2]))
for folder in pathlib.Path(sys.argv[1]).iterdir():
    family, head = folder.name.split("-")
    kind = {"causal": "CausalLM", "masked": "MaskedLM", "classification": "SequenceClassification"}[head]
    auto, out = getattr(transformers, "AutoModelFor" + kind), {}
    for attention in ("eager",) if family == "mamba2" else ("eager", "sdpa"):
        model = auto.from_pretrained(folder, attn_implementation=attention).eval()
        out[attention] = model(**load_file(folder / "inputs.st")).logits.detach()
    out["labels"] = torch.tensor([model.config.num_labels])
    save_file(out, folder / "logits.st")
"""


def test_saved_models_give_the_same_logits_in_a_bare_process(tmp_path: Path) -> None:
    expected = {}
    for family, head in PAIRS:
        model = shaken(Scratch(family=family, depth=2).build(shape(head, dropout=0.1), seed=1)).eval()
        folder = tmp_path / f"{family}-{head}"
        model.save_pretrained(folder)
        save_file(batch(head)[0], folder / "inputs.st")
        expected[folder] = model(**batch(head)[0]).logits.detach()
    threads = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path), threads], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for folder, ours in expected.items():
        theirs = load_file(folder / "logits.st")
        assert torch.equal(theirs["eager"], ours), folder.name
        torch.testing.assert_close(theirs.get("sdpa", ours), ours, rtol=0, atol=1e-5)
        assert "classification" not in folder.name or theirs["labels"] == 3


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_a_fixed_batch_is_learned_in_30_steps(family: str, head: Head) -> None:
    model = Scratch(family=family, depth=2).build(shape(head), seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss = loss_of(model, head)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_every_weight_gets_a_gradient_in_bf16_and_with_layers_computed_twice(family: str, head: Head) -> None:
    """DDP waits for weights that get none; recomputed layers must drop what they dropped before."""
    gradients = []
    for checkpointing in (False, True):
        asked = shape(head, dropout=0.3, activation_checkpointing=checkpointing)
        model = shaken(Scratch(family=family, depth=2).build(asked, seed=0)).train()
        torch.manual_seed(7)
        with autocast(CPU, "bf16")():
            loss_of(model, head).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_dropout_acts_in_training_only_and_is_not_saved(family: str, head: Head, tmp_path: Path) -> None:
    plain = shaken(Scratch(family=family, depth=2).build(shape(head), seed=0))
    dropping = shaken(Scratch(family=family, depth=2).build(shape(head, dropout=0.5), seed=0))
    assert len(output_projections(dropping)) == 4  # two for each layer
    inputs, _ = batch(head)
    assert torch.equal(plain.eval()(**inputs).logits, dropping.eval()(**inputs).logits)
    assert torch.equal(plain.train()(**inputs).logits, plain.eval()(**inputs).logits)
    seen = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        seen.append(dropping.train()(**inputs).logits)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    plain.save_pretrained(tmp_path / "plain")
    dropping.save_pretrained(tmp_path / "dropping")
    configs = [(tmp_path / name / "config.json").read_text() for name in ("plain", "dropping")]
    assert configs[0] == configs[1]
    assert not [v for k, v in plain.config.to_dict().items() if "drop" in k and v]


def test_a_new_model_predicts_every_token_alike() -> None:
    model = Scratch(depth=3).build(Shape(vocabulary=257, context=32), seed=0)
    residual = model.model(torch.tensor([[5, 6, 7]])).last_hidden_state
    alone = model.model(torch.tensor([[5]])).last_hidden_state
    torch.testing.assert_close(residual[:, :1], alone)  # zeroed projections: no token sees another
    torch.testing.assert_close(
        model.model(torch.tensor([[9, 5]])).last_hidden_state[:, 1], alone[:, 0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("family", [family for family in PRESETS if "causal" in heads_of(family)])
def test_the_first_token_of_documents_is_learned(family: str) -> None:
    """The start token pads, too, and transformers keeps what pads at zero."""
    model = Scratch(family=family, depth=1).build(shape(start_token=3, pad_token=3), seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        logits_V = model(input_ids=torch.tensor([[3]])).logits[0, 0]
        loss = nn.functional.cross_entropy(logits_V, torch.tensor(7))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.5


def test_depth_is_the_one_dial() -> None:
    assert [width_of(depth) for depth in (1, 4, 6, 12)] == [64, 192, 320, 576]
    model = Scratch(family="nanochat", depth=4).build(Shape(vocabulary=257, context=32), seed=0)
    assert count_parameters(model) == hidden_parameters(4) + 2 * 257 * 192


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_a_depth_weighs_the_same_in_every_family(family: str, head: Head) -> None:
    for depth in (4, 12):
        model = Scratch(family=family, depth=depth).sketch(shape(head, vocabulary=64))
        assert next(model.parameters()).is_meta
        assert count_parameters(model) == pytest.approx(hidden_parameters(depth), rel=0.1)


def test_parameters_are_another_way_to_turn_the_dial() -> None:
    assert Scratch(parameters=hidden_parameters(6) + 1000).settled_depth() == 6
    assert Scratch(parameters=10_000).settled_depth() == 1
    assert Scratch().settled_depth() is None
    settled = Scratch(parameters=1_700_000).with_depth(5)
    assert (settled.depth, settled.parameters) == (5, None)
    assert Scratch.model_validate(settled.model_dump()) == settled
    with pytest.raises(ValidationError, match=r"leave out one of them; 1,700,000 weights are depth 4"):
        Scratch(depth=3, parameters=1_700_000)


def test_an_unsettled_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.depth"):
        Scratch().config(Shape(vocabulary=257, context=32))


def test_a_misspelt_family_hears_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="modernbert"):
        Scratch(family="modern-bert")
    with pytest.raises(ValidationError, match="nanochat"):
        Scratch(family="nanochatt")


@pytest.mark.parametrize(
    ("family", "head", "able"),
    [
        ("nanochat", "masked", "modernbert"),
        ("modernbert", "causal", "nanochat"),
        ("lfm2", "classification", "bert"),
    ],
)
def test_a_head_that_a_family_has_not_is_refused(family: str, head: Head, able: str) -> None:
    with pytest.raises(ValueError, match=f"has no {head} head.*{able}"):
        Scratch(family=family, depth=1).build(shape(head), seed=0)


@pytest.mark.parametrize(
    ("family", "head"),
    [("mistral", "causal"), ("gpt_neox", "causal"), ("roberta", "masked"), ("opt", "causal")],
)
def test_any_other_architecture_follows_the_dial(family: str, head: Head) -> None:
    model = Scratch(family=family, depth=3).build(shape(head, dropout=0.2), seed=0)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (width_of(3), 3)
    model.train()(**batch(head)[0]).logits.sum().backward()  # all of the context can be used


@pytest.mark.parametrize(
    ("family", "why"),
    [("bert-generation", "is to predict"), ("whisper", "several models"), ("zamba", "of 2")],
)
def test_architectures_that_cannot_are_refused_with_the_reason(family: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Scratch(family=family, depth=2).build(shape(), seed=0)


def test_dropout_is_refused_where_it_would_do_nothing() -> None:
    with pytest.raises(ValueError, match=r"learning\.dropout"):
        Scratch(family="rwkv", depth=2).build(shape(dropout=0.1), seed=0)


def test_classification_wants_two_labels() -> None:
    with pytest.raises(ValueError, match="two labels"):
        Scratch(family="bert", depth=1).build(shape("classification", labels=("only",)), seed=0)


def packed_and_alone(family: str, head: Head, attention: str, **given: Any) -> tuple[torch.Tensor, ...]:
    """Logits of two documents: in one row with positions that start again, in one row plainly, and alone."""
    model = shaken(
        Scratch(family=family, depth=4).build(shape(head, attention=attention), seed=0), 0.3
    ).eval()
    first_BT, second_BT = torch.arange(1, 6)[None], torch.arange(20, 27)[None]
    row_BT = torch.cat([first_BT, second_BT], 1)
    places_BT = torch.cat([torch.arange(5), torch.arange(7)])[None]
    packed = model(input_ids=row_BT, position_ids=places_BT, **given).logits
    plain = model(input_ids=row_BT, **given).logits
    return (
        packed,
        plain,
        torch.cat([model(input_ids=ids, **given).logits for ids in (first_BT, second_BT)], 1),
    )


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_attention_in_blocks_says_the_same(family: str, head: Head) -> None:
    plain, blocks = (
        shaken(Scratch(family=family, depth=2).build(shape(head, attention=attention), seed=0)).eval()
        for attention in ("eager", "blockwise")
    )
    inputs, _ = batch(head)
    torch.testing.assert_close(blocks(**inputs).logits, plain(**inputs).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "blockwise"])
@pytest.mark.parametrize("family", PRESETS)
def test_documents_in_one_row_stay_apart_where_packs_says_so(family: str, attention: str) -> None:
    head = heads_of(family)[0]
    given = {"use_cache": False} if head == "causal" else {}
    packed, plain, alone = packed_and_alone(family, head, attention, **given)
    assert torch.allclose(packed, alone, rtol=1e-3, atol=1e-3) == packs(family)
    assert not torch.allclose(plain, alone, rtol=1e-2, atol=1e-2)


def test_a_model_depends_on_its_seed_alone() -> None:
    torch.manual_seed(99)
    one, same, other = (Scratch(depth=1).build(shape(), seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_the_form_shows_both_kinds_and_the_presets() -> None:
    schema = TypeAdapter(Model).json_schema()
    assert len(schema["anyOf"]) == 2
    assert schema["$defs"]["Scratch"]["properties"]["family"]["examples"] == list(PRESETS)
    adapter: TypeAdapter[Any] = TypeAdapter(Model)
    assert isinstance(adapter.validate_python({"kind": "pretrained", "name": "x"}), Pretrained)


def test_16_bits_only_where_asked_for() -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, "bf16")():
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, "fp32")():
        assert (a @ a).dtype == torch.float32
    with pytest.raises(ValueError, match="fp16 has no fast path on a cpu"):
        autocast(CPU, "fp16")
