"""Judging on the test split: the score is the documents' own, the interval honest, the sample stated."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.artifacts import InputError, Report
from tasks.evaluate import describe_score, evaluate, picture_book
from tasks.generate import load
from tasks.resampling import bootstrap
from tasks.samples import SAMPLE_TOKENS, opening
from tasks.scores import (
    encode,
    held_out_documents,
    interval,
    labels_of,
    refuse_unfair,
    score_texts,
    score_within,
    train_labels,
)
from tests import tiny_run
from tests.tiny_run import Work
from training.classification import classification_metrics
from training.metrics import class_log_probabilities, score_documents
from training.units import bits

pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def causal(module_home: Path) -> Work:
    return tiny_run.judged("causal", steps=30)


@pytest.fixture(scope="module")
def masked(module_home: Path) -> Work:
    return tiny_run.judged("masked", steps=30, head="masked")


@pytest.fixture(scope="module")
def classifier(module_home: Path) -> Work:
    return tiny_run.judged("classifier", steps=12, head="classification")


def test_the_score_is_that_of_all_test_documents(causal: Work) -> None:
    trained, report = causal
    documents = held_out_documents(trained.tokens.splits)
    assert documents["id"].to_pylist() == [f"d{number}" for number in range(0, 24, 3)]
    texts = documents["text"].to_pylist()
    nats = score_texts(trained.model_folder, texts)
    size = sum(len(text.encode()) for text in texts)
    assert (report.head, report.unit) == ("causal", "bits per byte")
    assert report.bits == pytest.approx(nats.sum() / size / math.log(2), rel=1e-3)
    assert report.low < report.bits < report.high
    assert (report.test_documents, report.test_bytes, report.split_documents) == (8, size, 8)
    scores = pq.read_table(report.folder / "report" / "test_documents.parquet")
    assert scores.column_names == ["id", "bytes", "weight", "tokens", "nats"]
    assert sorted(scores["id"].to_pylist()) == sorted(documents["id"].to_pylist())
    value, low, high = report.metrics["perplexity"]
    assert low < value < high
    assert math.log(value) * sum(scores["tokens"].to_pylist()) == pytest.approx(nats.sum(), rel=1e-3)


def test_a_masked_model_is_judged_by_its_pseudo_likelihood(masked: Work) -> None:
    trained, report = masked
    texts = held_out_documents(trained.tokens.splits)["text"].to_pylist()
    assert (report.head, report.unit) == ("masked", "pseudo-bits per byte")
    nats = score_texts(trained.model_folder, texts)
    assert report.bits == pytest.approx(bits(nats.sum(), report.test_bytes), rel=1e-3)
    value, low, high = report.metrics["pseudo_perplexity"]
    assert low < value < high
    assert "pseudo-bits per byte" in describe_score(report)


def test_a_classifier_is_judged_by_its_labels(classifier: Work) -> None:
    trained, report = classifier
    splits = trained.tokens.splits
    documents = held_out_documents(splits, "classification")
    model, tokenizer = load(trained.model_folder)
    log_chances = class_log_probabilities(model, encode(tokenizer, documents["text"].to_pylist()), 32)
    truth = np.array([labels_of(model).index(label) for label in documents["label"].to_pylist()])
    assert report.unit == "bits per label"
    nats = -log_chances[np.arange(len(truth)), truth]
    assert report.bits == pytest.approx(bits(nats.sum(), len(truth)), rel=0.05)  # bf16
    expected = classification_metrics(np.exp(log_chances), truth)
    assert {name: value for name, (value, _, _) in report.metrics.items()} == pytest.approx(
        expected, abs=0.02
    )
    assert all(low <= value <= high for value, low, high in report.metrics.values())
    scores = pq.read_table(report.folder / "report" / "test_documents.parquet")
    columns = ["id", "bytes", "weight", "tokens", "nats", "label", "predicted", "probability"]
    assert scores.column_names == columns
    right = np.array(scores["label"].to_pylist()) == np.array(scores["predicted"].to_pylist())
    assert right.mean() == report.metrics["accuracy"][0]
    assert set(scores["weight"].to_pylist()) == {1}
    assert {Path(plot).stem for plot in report.plots} >= {"confusion", "reliability"}


def test_a_classifier_is_compared_with_saying_one_label_always(classifier: Work) -> None:
    trained, report = classifier
    said = train_labels(trained.tokens.splits)
    common = max(set(said), key=said.count)
    truth = held_out_documents(trained.tokens.splits, "classification")["label"].to_pylist()
    assert report.baseline is not None
    assert report.baseline.label == common == "loops"
    assert report.baseline.accuracy == truth.count(common) / len(truth)
    always = np.tile(np.eye(3)[tiny_run.LABELS.index(common)], (len(truth), 1))
    ids = np.array([tiny_run.LABELS.index(label) for label in truth])
    assert report.baseline.macro_f1 == pytest.approx(classification_metrics(always, ids)["macro_f1"])
    assert 0.5 < report.baseline.bits < 3
    assert f"always saying 'loops': {report.baseline.accuracy:.1%}" in describe_score(report)
    assert any("always saying" in row["figure"] for row in report.rows())


def test_documents_without_a_label_do_not_judge_a_classifier(module_home: Path) -> None:
    splits = tiny_run.splits(count=25)  # the last, a test document, has none
    assert len(held_out_documents(splits)) == len(held_out_documents(splits, "classification")) + 1


@pytest.mark.parametrize("work", ["causal", "masked"])
def test_training_shows_in_the_score(work: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    trained, report = request.getfixturevalue(work)
    texts = held_out_documents(trained.tokens.splits)["text"].to_pylist()
    untrained = score_texts(tiny_run.write_model(tmp_path, head=report.head), texts).sum()
    assert report.bits < 0.8 * bits(untrained, report.test_bytes)


def test_scores_in_fast_precision_are_those_in_full(causal: Work) -> None:
    folder, texts = causal[0].model_folder, tiny_run.texts(20, seed=5)
    model, tokenizer = load(folder)
    full = score_documents(model, encode(tokenizer, texts), 32)
    np.testing.assert_allclose(score_texts(folder, texts).sum(), full.sum(), rtol=2e-3)


def test_special_tokens_in_a_text_are_text(causal: Work) -> None:
    _, tokenizer = load(causal[0].model_folder)
    ids = encode(tokenizer, [f"a{tiny_run.START}b"])[0]
    assert ids.tolist().count(0) == 1
    assert tokenizer.decode(ids[1:]) == f"a{tiny_run.START}b"
    assert encode(tokenizer, []) == []


def test_a_tokenizer_that_loses_text_is_compared_with_its_like_alone(tmp_path: Path) -> None:
    ours, lossy = tiny_run.write_model(tmp_path / "ours"), tiny_run.write_model(tmp_path / "lossy")
    spelling = json.loads((lossy / "tokenizer.json").read_text())
    spelling["normalizer"] = {"type": "Lowercase"}
    (lossy / "tokenizer.json").write_text(json.dumps(spelling))
    refuse_unfair((ours, lossy), ["lower"])
    refuse_unfair((lossy, lossy), ["UPPER"])
    with pytest.raises(ValueError, match="lossy does not give back"):
        refuse_unfair((ours, lossy), ["UPPER"])


def test_a_label_that_the_model_does_not_know_is_said(classifier: Work) -> None:
    folder = classifier[0].model_folder
    with pytest.raises(ValueError, match="does not know the label 'poems'"):
        score_texts(folder, ["def x"], ["poems"])
    with pytest.raises(ValueError, match="have no labels"):
        score_texts(folder, ["def x"])


def test_a_time_limit_leaves_a_seeded_sample_which_is_stated(causal: Work, tmp_path: Path) -> None:
    trained, report = causal
    model, tokenizer = load(trained.model_folder)
    documents = held_out_documents(tiny_run.splits(count=1200))
    everything = score_within(model, tokenizer, documents).documents
    shares: list[float] = []
    sample = score_within(model, tokenizer, documents, limit_seconds=0.01, progress=shares.append).documents
    assert 0 < len(sample) < len(everything) == 400
    assert sample["id"].to_pylist() == everything["id"].to_pylist()[: len(sample)]
    np.testing.assert_allclose(sample["nats"], everything["nats"][: len(sample)], rtol=2e-2)
    assert 0 < shares[-1] < 1
    assert len(score_within(model, tokenizer, documents, limit_seconds=600).documents) == 400
    short = report.model_copy(update={"test_documents": 3})
    assert "on 3 test documents of 8, a seeded sample" in describe_score(short)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    dice = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        sizes = dice.integers(100, 2000, 60)
        nats = sizes * math.log(2) * dice.gamma(25, 1.5 / 25, 60)
        low, high = interval(nats, sizes, seed=trial)
        covered += low < 1.5 < high
    assert 85 <= covered <= 99


def test_the_bootstrap_is_a_ratio_of_sums_and_seeded() -> None:
    nats, sizes = np.array([1.0, 90.0]), np.array([1, 99])
    values = {round(value, 6) for value in bootstrap(nats, sizes)}
    assert values == {round(bits(*pair), 6) for pair in [(2, 2), (91, 100), (180, 198)]}
    assert np.array_equal(bootstrap(nats, sizes, 1), bootstrap(nats, sizes, 1))
    assert interval(np.array([math.log(2)]), np.array([1])) == (1.0, 1.0)


def test_samples_and_plots_are_there_and_repeat(causal: Work) -> None:
    trained, report = causal
    assert len(report.samples) == 5
    assert all(prompt for prompt, _ in report.samples)
    texts = held_out_documents(trained.tokens.splits)["text"].to_pylist()
    assert all(any(text.startswith(prompt) for text in texts) for prompt, _ in report.samples)
    assert all(len(completion) <= 20 * SAMPLE_TOKENS for _, completion in report.samples)
    assert {Path(plot).name for plot in report.plots} == {"learning_curve.png", "folds.png", "trials.png"}
    assert evaluate(trained, tiny_run.NO_FOLDS, trained.tokens.splits).samples == report.samples
    book = picture_book(report)
    assert book.count("data:image/png;base64,") == 3
    assert report == Report.model_validate_json(report.model_dump_json())


def test_samples_of_a_masked_model_show_gaps_and_what_stood_there(masked: Work) -> None:
    for passage, filled in masked[1].samples:
        assert 1 <= passage.count("[MASK]") == filled.count("%") <= 4
        assert tiny_run.MASK not in passage


def test_samples_of_a_classifier_show_what_it_says_and_what_is_true(classifier: Work) -> None:
    trained, report = classifier
    documents = held_out_documents(trained.tokens.splits, "classification")
    truth = dict(zip(documents["text"].to_pylist(), documents["label"].to_pylist(), strict=True))
    for opened, said in report.samples:
        (label,) = {label for text, label in truth.items() if text.startswith(opened)}
        assert said.endswith(f"and it is {label}")
    assert "\n\u2506 " in picture_book(report)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("short", "short"),
        ("x" * 300, "x" * 60),
        ("a\n" * 80, "a\n" * 30 + "a"),
        ("word " * 40, "word " * 12 + "word"),
        ("y" * 70 + "\nnext", "y" * 70),
    ],
)
def test_prompts_end_at_a_line_or_word(text: str, prompt: str) -> None:
    assert opening(text) == prompt


@pytest.mark.parametrize(("work", "what"), [("causal", "is empty,"), ("classifier", "is empty of labels")])
def test_an_empty_test_split_is_an_error(work: str, what: str, request: pytest.FixtureRequest) -> None:
    trained, _ = request.getfixturevalue(work)
    with pytest.raises(InputError, match=f"test split {what}"):
        evaluate(trained, tiny_run.NO_FOLDS, tiny_run.splits(count=0))
