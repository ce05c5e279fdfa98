"""Checkpoints to go on from: what is loaded, what is new, and what is refused before anything is read."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertForMaskedLM

from training.architectures import Head
from training.model import Pretrained, Scratch, Shape
from training.pretrained import PICKLES, WANTED_FILES

VOCABULARY, CONTEXT = 61, 16
TOKENS = torch.arange(1, 13)[None]


def shape(head: Head = "masked", **settings: Any) -> Shape:
    asked: dict[str, Any] = {"vocabulary": VOCABULARY, "context": CONTEXT, "labels": ("no", "yes")}
    return Shape(head=head, **(asked | settings))


def saved(folder: Path, family: str, head: Head, **settings: Any) -> Path:
    """A checkpoint of that family, no tensor of which is zero."""
    model = Scratch(family=family, depth=1).build(shape(head), seed=5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    for name, value in settings.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return saved(tmp_path / "masked", "modernbert", "masked")


def change(folder: Path, **settings: Any) -> None:
    """Writes settings into a checkpoint's config."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("family", "head"), [("modernbert", "masked"), ("bert", "masked"), ("nanochat", "causal")]
)
def test_a_whole_checkpoint_is_taken_as_it_is(family: str, head: Head, tmp_path: Path) -> None:
    folder = saved(tmp_path, family, head)
    loaded = Pretrained(name=str(folder)).load(shape(head), seed=0)
    assert loaded.newly_made == loaded.left_out == ()
    original = type(loaded.model).from_pretrained(folder, attn_implementation="eager")
    assert torch.equal(loaded.model.eval()(TOKENS).logits, original.eval()(TOKENS).logits)


def test_what_a_checkpoint_lacks_is_newly_made_and_named(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = Pretrained(name=str(checkpoint))
    with caplog.at_level(logging.WARNING, "training.pretrained"):
        one, same, other = (start.load(shape("classification"), seed) for seed in (1, 1, 2))
    assert one.newly_made == ("classifier.bias", "classifier.weight")
    assert set(one.left_out) == {"decoder.bias", "decoder.weight"}
    assert "classifier.weight" in caplog.text
    weights = [loaded.model.state_dict() for loaded in (one, same, other)]
    assert torch.equal(weights[0]["classifier.weight"], weights[1]["classifier.weight"])
    assert not torch.equal(weights[0]["classifier.weight"], weights[2]["classifier.weight"])
    kept = Pretrained(name=str(checkpoint)).build(shape(), seed=3).state_dict()
    assert all(torch.equal(kept[name], w) for name, w in weights[2].items() if "classifier" not in name)
    assert one.model.config.id2label == {0: "no", 1: "yes"}


def test_a_classifier_of_other_labels_is_newly_made(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert", "classification")
    loaded = Pretrained(name=str(folder)).load(shape("classification", labels=("a", "b", "c")), seed=0)
    assert loaded.newly_made == ("classifier.bias", "classifier.weight")
    assert loaded.model(TOKENS).logits.shape == (1, 3)


def test_a_causal_checkpoint_classifies_by_the_last_token_before_the_padding(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama", "causal", pad_token_id=None)
    model = Pretrained(name=str(folder)).build(shape("classification", pad_token=0), seed=0).eval()
    padded = torch.cat([TOKENS, torch.zeros(1, 4, dtype=torch.long)], 1)
    mask = (padded > 0).long()
    torch.testing.assert_close(model(padded, attention_mask=mask).logits, model(TOKENS).logits)


def test_dropout_and_precision_of_a_checkpoint_do_not_carry_over(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert", "masked", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    half = BertForMaskedLM.from_pretrained(folder).to(torch.bfloat16)
    half.save_pretrained(folder)
    model = Pretrained(name=str(folder)).build(shape(), seed=0).train()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model(TOKENS).logits, model(TOKENS).logits)
    dropping = Pretrained(name=str(folder)).build(shape(dropout=0.5), seed=0).train()
    assert not torch.equal(dropping(TOKENS).logits, dropping(TOKENS).logits)
    assert dropping.config.hidden_dropout_prob == 0


def test_its_depth_is_what_it_is(checkpoint: Path) -> None:
    start = Pretrained(name=str(checkpoint))
    assert start.settled_depth() == 1 and start.with_depth(7) == start
    sketch = start.sketch(shape("classification"))
    assert next(sketch.parameters()).is_meta and sketch.config.num_labels == 2


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"auto_map": {"AutoModel": "modeling.Mine"}}, "needs code of its own"),
        ({"quantization_config": {"bits": 4}}, "is quantized"),
        ({"transformers_weights": "adapter_model.bin"}, "is an adapter"),
        ({"model_type": "modern-bert"}, "did you mean modernbert"),
        ({"vocab_size": 97}, "has a vocabulary of 97, the data of 61"),
        ({"max_position_embeddings": 8}, "knows 8 positions, and learning.context is 16"),
    ],
)
def test_a_config_that_does_not_do_is_refused(settings: dict[str, Any], why: str, checkpoint: Path) -> None:
    change(checkpoint, **settings)
    with pytest.raises(ValueError, match=why):
        Pretrained(name=str(checkpoint)).build(shape(), seed=0)


def test_a_head_that_a_checkpoint_cannot_have_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="modernbert has no causal head"):
        Pretrained(name=str(checkpoint)).build(shape("causal"), seed=0)
    nanochat = saved(tmp_path / "causal", "nanochat", "causal")
    with pytest.raises(ValueError, match="nanochat has no classification head"):
        Pretrained(name=str(nanochat)).build(shape("classification"), seed=0)


def test_a_padded_vocabulary_is_not_another_one(tmp_path: Path) -> None:
    Scratch(family="modernbert", depth=1).build(shape(vocabulary=1024), seed=0).save_pretrained(tmp_path)
    Pretrained(name=str(tmp_path)).build(shape(vocabulary=1010), seed=0)
    with pytest.raises(ValueError, match="own tokenizer"):
        Pretrained(name=str(tmp_path)).build(shape(vocabulary=512), seed=0)


def test_positions_lost_to_padding_are_counted(tmp_path: Path) -> None:
    Scratch(family="roberta", depth=1).build(shape(pad_token=1), seed=0).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["max_position_embeddings"] == CONTEXT + 2
    Pretrained(name=str(tmp_path)).build(shape(pad_token=1), seed=0)
    with pytest.raises(ValueError, match="knows 16 positions"):
        Pretrained(name=str(tmp_path)).build(shape(pad_token=1, context=18), seed=0)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused_unread(name: str, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(b"not even a pickle")
    with pytest.raises(ValueError, match=f"only {name}, which may run code"):
        Pretrained(name=str(checkpoint)).build(shape(), seed=0)
    assert not {*WANTED_FILES} & {*PICKLES}


def test_damaged_weights_and_adapters_are_refused(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read"):
        Pretrained(name=str(checkpoint)).build(shape(), seed=0)
    (checkpoint / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="adapter: merge"):
        Pretrained(name=str(checkpoint)).build(shape(), seed=0)


def test_weights_of_another_architecture_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "other", "gpt2", "causal")
    (checkpoint / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="no tensor of"):
        Pretrained(name=str(checkpoint)).build(shape(), seed=0)


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "nobody/no-such-model"])
def test_a_checkpoint_that_is_not_there_is_said_soon(name: str, tmp_path: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"no folder|nor found on the Hub"):
        Pretrained(name=name).build(shape(), seed=0)
    assert time.perf_counter() - started < 5
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        Pretrained(name=str(tmp_path)).build(shape(), seed=0)
