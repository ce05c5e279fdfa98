from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedModel

from tests.tiny_shards import MASK, START, tiny_blueprint, write_shards
from training.batch import IGNORED, Batch
from training.context import Context
from training.data import Documents, Sample, Shards, Slice
from training.loop import gradients
from training.metrics import class_log_probabilities, pseudo_log_likelihood
from training.model import Scratch
from training.objectives import (
    CausalLanguageModel,
    MaskedLanguageModel,
    Objective,
    SequenceClassification,
    token_loss_sum,
)
from training.parallel import Shared
from training.state import State

MEMBERS = get_args(get_args(Objective)[0])


@pytest.fixture
def shards(tmp_path: Path, corpus_texts: list[str]) -> Shards:
    torch.set_num_threads(1)
    return write_shards(tmp_path / "shards", corpus_texts[:60])


def model_for(objective: object) -> PreTrainedModel:
    """One layer of 64, with the head that the objective wants."""
    torch.manual_seed(0)
    if isinstance(objective, CausalLanguageModel):
        return tiny_blueprint().build()
    config = BertConfig(
        vocab_size=258,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
        pad_token_id=START,
    )
    masked = isinstance(objective, MaskedLanguageModel)
    model: PreTrainedModel = BertForMaskedLM(config) if masked else BertForSequenceClassification(config)
    return model


def gradient_of(objective: object, batch: Batch, micro_rows: int, folder: Path) -> tuple[float, torch.Tensor]:
    model = model_for(objective)
    state = State(model, [], torch.amp.GradScaler("cpu", enabled=False))
    blueprint = tiny_blueprint().model_copy(update={"objective": objective})
    context = Context(folder, micro_rows=micro_rows)
    loss = gradients(blueprint, Shared(model, model), state, batch, context, torch.enable_grad, 32, 48)
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("member", MEMBERS)
def test_micro_batches_add_up_to_one_big_batch(member: type, shards: Shards, tmp_path: Path) -> None:
    """Also where they hold unlike numbers of predictions: no mean of means."""
    objective = member()
    batch = objective.feed(Slice(shards), tiny_blueprint().facts()).batch(0, rows=6, length=32)
    if batch.targets.ndim == 2:
        batch.targets[0, 3:] = IGNORED
    loss, whole = gradient_of(objective, batch, 6, tmp_path / "a")
    summed_loss, summed = gradient_of(objective, batch, 2, tmp_path / "b")
    assert summed_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_score_is_the_documents_own(member: type, shards: Shards) -> None:
    """Whichever documents are scored with it, and in whatever order."""
    objective, texts = member(), Slice(shards, "test").texts()
    model = model_for(objective)
    scores = objective.score(model, texts, 32, MASK, torch.enable_grad)
    turned = Sample(texts.documents[::-1], texts.labels[::-1], texts.weights[::-1])
    again = objective.score(model, turned, 32, MASK, torch.enable_grad)
    np.testing.assert_allclose(scores, again[::-1], rtol=1e-5)
    assert (scores > 0).all()


def test_about_the_share_asked_for_is_hidden_and_never_the_start(shards: Shards) -> None:
    facts = tiny_blueprint(context=64).facts()
    feed = MaskedLanguageModel(rate=0.2).feed(Slice(shards), facts)
    batch = feed.batch(0, rows=40, length=64)
    inputs, hidden = batch.inputs["input_ids"], batch.targets != IGNORED
    assert hidden.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (inputs[hidden] == MASK).float().mean().item() == pytest.approx(0.8, abs=0.05)
    assert not (batch.targets == START).any()
    assert torch.equal(feed.batch(0, 40, 64).inputs["input_ids"], inputs)
    assert not torch.equal(feed.batch(40 * 64, 40, 64).targets, batch.targets)


def test_every_token_is_hidden_once_in_a_pseudo_likelihood() -> None:
    class Counts(torch.nn.Module):
        """Predicts nothing; remembers what it was asked for."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.hidden = 0

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            self.hidden += int((input_ids == MASK).sum())
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 258)})

    documents = [np.array([START, *range(n)]) for n in (0, 1, 5, 40, 100)]
    model = Counts()
    nats = pseudo_log_likelihood(model, documents, 32, MASK)
    np.testing.assert_allclose(nats, [np.log(258) * (len(ids) - 1) for ids in documents])
    assert model.hidden == sum(len(ids) - 1 for ids in documents)


def test_padding_does_not_change_a_class(shards: Shards) -> None:
    model, texts = model_for(SequenceClassification()), Slice(shards, "test").texts()
    documents = [ids[: 5 + number] for number, ids in enumerate(texts.documents)]
    together = class_log_probabilities(model, documents, 32)
    alone = np.concatenate([class_log_probabilities(model, [ids], 32) for ids in documents])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.exp(together).sum(1), 1, rtol=1e-6)


def test_balanced_labels_count_alike_and_the_mean_stays_one(shards: Shards) -> None:
    source = Documents(Slice(shards), seed=0, context=32, batch_tokens=128, balanced=True)
    rows = source.rows(range(len(source.labels)), 0, 32)
    sums = [rows.weights[rows.labels == label].sum() for label in (0, 1)]
    assert sums[0] == pytest.approx(sums[1])
    assert rows.weights.mean() == pytest.approx(1)


def test_an_epoch_of_documents_is_each_once_and_neighbours_are_alike(shards: Shards) -> None:
    source = Documents(Slice(shards), seed=0, context=10**6, batch_tokens=4 * 600)
    count = len(source.labels)
    lengths = [len(ids) for ids in source.rows(range(count), 0, 10**6).documents]
    assert sorted(lengths) == sorted(len(ids) for ids in Slice(shards).texts().documents)
    assert source.moved(0, 3, 10) == (3, 30)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_head_that_sees_hidden_tokens_alone_has_the_same_loss_and_gradient(
    family: str, shards: Shards
) -> None:
    tiny = tiny_blueprint().model_copy(update={"model": Scratch(family=family, depth=1)})
    model = tiny.model_copy(update={"objective": MaskedLanguageModel()}).build()
    batch = MaskedLanguageModel().feed(Slice(shards), tiny.facts()).batch(0, rows=4, length=32)
    found = []
    for loss in (
        MaskedLanguageModel().loss_sum(model, batch),
        token_loss_sum(model(**batch.inputs).logits, batch.targets, 0.0),
    ):
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def kept(batch: Batch) -> list[tuple[int, ...]]:
    """The tokens of each document of a batch, in an order that the documents' places do not change."""
    rows = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
    return sorted(tuple(ids[mask > 0].tolist()) for ids, mask in rows)


def test_token_dropout_leaves_out_others_each_time_and_on_any_number_of_workers(shards: Shards) -> None:
    facts, count = tiny_blueprint().facts(), len(Slice(shards).documents())
    whole = SequenceClassification(token_dropout=0.0).feed(Slice(shards), facts)
    feed = SequenceClassification(token_dropout=0.5).feed(Slice(shards), facts)
    once, again, later = (feed.batch(place, rows=count, length=32) for place in (0, 0, count))
    all_of_it = whole.batch(0, count, 32).inputs["attention_mask"].sum()
    assert 0.35 < once.inputs["attention_mask"].sum() / all_of_it < 0.65
    assert (once.inputs["input_ids"][:, 0] == START).all()
    assert torch.equal(once.inputs["input_ids"], again.inputs["input_ids"])
    assert kept(whole.batch(0, count, 32)) == kept(whole.batch(count, count, 32))
    assert (Counter(kept(once)) & Counter(kept(later))).total() < count / 10
    parts = [feed.batch(0, count, 32, share, 2) for share in range(2)]
    assert sorted([*kept(parts[0]), *kept(parts[1])]) == kept(once)


def test_focus_leaves_out_what_is_known() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.1]])
    model = type(
        "Fixed", (torch.nn.Module,), {"forward": lambda self, x: type("O", (), {"logits": logits})}
    )()
    batch = Batch({"x": logits}, torch.tensor([0, 1]), torch.ones(2))
    plain = SequenceClassification().loss_sum(model, batch)
    focal = SequenceClassification(focus=2.0).loss_sum(model, batch)
    right = torch.softmax(logits, -1)[[0, 1], [0, 1]]
    assert focal.item() == pytest.approx((-((1 - right) ** 2) * right.log()).sum().item())
    assert focal < plain


def test_confined_attention_starts_positions_anew(shards: Shards) -> None:
    facts = tiny_blueprint(packing="documents").facts()
    batch = CausalLanguageModel().feed(Slice(shards), facts).batch(0, rows=60, length=32)
    ids, places = batch.inputs["input_ids"], batch.inputs["position_ids"]
    assert (places[ids == START] == 0).all()
    inner = ids[:, 1:] != START
    assert torch.equal(places[:, 1:][inner], places[:, :-1][inner] + 1)


def test_labels_that_are_missing_are_refused(shards: Shards) -> None:
    index = np.load(shards.folder / "train.npy")
    index[3, 4] = -1
    np.save(shards.folder / "train.npy", index)
    with pytest.raises(ValueError, match="no label"):
        SequenceClassification().feed(Slice(shards), tiny_blueprint().facts())


def test_no_mask_token_is_refused(shards: Shards) -> None:
    facts = tiny_blueprint().facts()._replace(mask_token=None)
    with pytest.raises(ValueError, match="mask token"):
        MaskedLanguageModel().feed(Slice(shards), facts)


def test_shards_know_their_labels(shards: Shards) -> None:
    assert shards.header["labels"] == ["function", "method"]
    assert replace(Slice(shards), split="test").texts().labels.max() == 1
