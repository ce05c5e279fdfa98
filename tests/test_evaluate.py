"""Judging on the test split: the score is the documents' own, the interval honest, the sample stated."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks import home
from tasks.artifacts import InputError, Report, Trained
from tasks.evaluate import (
    SAMPLE_TOKENS,
    bootstrap,
    describe_score,
    encode,
    evaluate,
    held_out_documents,
    interval,
    opening,
    picture_book,
    score_texts,
    score_within,
)
from tasks.generate import load
from tests import tiny_run
from training.metrics import bits, score_documents


@pytest.fixture(autouse=True, scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(home.HOME_VARIABLE, str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture(scope="module")
def trained(own_home: Path) -> Trained:
    return tiny_run.trained("judged", steps=30)


@pytest.fixture(scope="module")
def report(trained: Trained) -> Report:
    return evaluate(trained, tiny_run.NO_FOLDS, trained.tokens.splits)


def test_the_score_is_that_of_all_test_documents(trained: Trained, report: Report) -> None:
    documents = held_out_documents(trained.tokens.splits)
    assert documents["id"].to_pylist() == [f"d{number}" for number in range(0, 24, 3)]
    texts = documents["text"].to_pylist()
    nats = score_texts(trained.model_folder, texts)
    size = sum(len(text.encode()) for text in texts)
    assert report.bits_per_byte == pytest.approx(nats.sum() / size / math.log(2), rel=1e-3)
    assert report.low < report.bits_per_byte < report.high
    assert (report.test_documents, report.test_bytes, report.split_documents) == (8, size, 8)
    scores = pq.read_table(report.folder / "report" / "test_documents.parquet")
    assert sorted(scores["id"].to_pylist()) == sorted(documents["id"].to_pylist())
    assert math.log(report.perplexity) * sum(scores["tokens"].to_pylist()) == pytest.approx(
        nats.sum(), rel=1e-3
    )


def test_training_shows_in_the_score(trained: Trained, report: Report, tmp_path: Path) -> None:
    texts = held_out_documents(trained.tokens.splits)["text"].to_pylist()
    untrained = score_texts(tiny_run.write_model(tmp_path), texts).sum()
    assert report.bits_per_byte < 0.7 * bits(untrained, report.test_bytes)


def test_scores_in_fast_precision_are_those_in_full(trained: Trained) -> None:
    texts = tiny_run.texts(20, seed=5)
    model, tokenizer = load(trained.model_folder)
    full = score_documents(model, encode(tokenizer, texts), 32)
    np.testing.assert_allclose(score_texts(trained.model_folder, texts).sum(), full.sum(), rtol=2e-3)


def test_special_tokens_in_a_text_are_text(trained: Trained) -> None:
    _, tokenizer = load(trained.model_folder)
    ids = encode(tokenizer, [f"a{tiny_run.START}b"])[0]
    assert ids.tolist().count(0) == 1
    assert tokenizer.decode(ids[1:]) == f"a{tiny_run.START}b"
    assert encode(tokenizer, []) == []


def test_a_tokenizer_that_loses_text_is_refused(tmp_path: Path) -> None:
    folder = tiny_run.write_model(tmp_path)
    spelling = json.loads((folder / "tokenizer.json").read_text())
    spelling["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(spelling))
    with pytest.raises(ValueError, match="does not give back"):
        score_texts(folder, ["UPPER"])


def test_a_time_limit_leaves_a_seeded_sample_which_is_stated(
    trained: Trained, report: Report, tmp_path: Path
) -> None:
    model, tokenizer = load(trained.model_folder)
    documents = held_out_documents(tiny_run.splits(count=1200))
    everything = score_within(model, tokenizer, documents)
    shares: list[float] = []
    sample = score_within(model, tokenizer, documents, limit_seconds=0.01, progress=shares.append)
    assert 0 < len(sample) < len(everything) == 400
    assert sample["id"].to_pylist() == everything["id"].to_pylist()[: len(sample)]
    np.testing.assert_allclose(sample["nats"], everything["nats"][: len(sample)], rtol=2e-2)
    assert 0 < shares[-1] < 1
    assert len(score_within(model, tokenizer, documents, limit_seconds=600)) == 400
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


def test_samples_and_plots_are_there_and_repeat(trained: Trained, report: Report) -> None:
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


def test_an_empty_test_split_is_an_error(trained: Trained, own_home: Path) -> None:
    empty = tiny_run.splits(count=0)
    with pytest.raises(InputError, match="test split is empty"):
        evaluate(trained, tiny_run.NO_FOLDS, empty)
