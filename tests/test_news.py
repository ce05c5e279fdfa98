"""Reasons to train again: found where there are any, and not invented where there are none."""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.retrain import retrain_where_due
from tasks import home, tracking
from tasks.artifacts import Corpus, InputError
from tasks.clean import Cleaning, store_corpus
from tasks.drift import LENGTH, SURPRISE, as_judged, drifted, shifts_between, surprise
from tasks.evaluate import evaluate
from tasks.launch import read_request
from tasks.news import NewDocuments, News, Retraining, Seen, find_news
from tasks.ray_session import stop_ray
from tasks.register import Promotion, register
from tasks.retrain import ANEW, CONTINUED, Retrained, shares, tell
from tasks.sides import Validation
from tasks.source import Files
from tasks.split import split_corpus
from tasks.study import Search
from tests import tiny_run
from training.model import Head, Pretrained, Scratch
from training.objectives import CausalLanguageModel

pytestmark = pytest.mark.usefixtures("module_home")  # every champion has a name of its own
DRAWS = 200
CLEANING = Cleaning(preset="none", duplicates="equal")


def write(path: Path, texts: list[str], labels: list[str] | None = None) -> Files:
    """A table of documents, with labels or without."""
    rows = zip(texts, labels or [""] * len(texts), strict=True)
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return Files(paths=(str(path),), label_column="label")


def crown(name: str, source: Files, head: Head = "causal") -> Corpus:
    """Makes a tiny model the champion of this name, trained and judged on the source's documents."""
    corpus = store_corpus(source, CLEANING)
    sides = Validation(test_share=0.3, validation_share=0.1, folds=0)
    splits = split_corpus.fn(corpus, sides, CausalLanguageModel())
    done = tiny_run.trained(f"run-{name}", 10, head=head)
    trained = done.model_copy(update={"tokens": done.tokens.model_copy(update={"splits": splits})})
    assert (
        "first"
        in register(trained, evaluate(trained, tiny_run.NO_FOLDS, splits), Promotion(name=name)).verdict
    )
    return corpus


def look(name: str, corpus: Corpus, seen: Seen | None = None, **retraining: float) -> News:
    settings = Retraining.model_validate(retraining)
    return find_news(corpus, Promotion(name=name), seen or NewDocuments(), CLEANING, settings, 20.0)


@pytest.fixture(scope="module")
def source(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """120 documents, of which `mine` is the champion."""
    found = write(tmp_path_factory.mktemp("source") / "rows.jsonl", *tiny_run.labelled(120, seed=3))
    crown("mine", found)
    return found


def figures(dice: np.random.Generator, count: int, longer: float = 1.0, harder: float = 0.0) -> pa.Table:
    """Lengths and surprise of documents that never were; long documents are easier, as they are in truth."""
    lengths = np.exp(dice.normal(6, 1, count))
    bits = 2 + harder - 0.2 * np.log(lengths) + dice.normal(0, 0.2, count)
    return pa.table({LENGTH: (longer * lengths).astype(int), SURPRISE: bits})


def test_where_nothing_drifts_alarms_are_as_rare_as_stated() -> None:
    dice, alpha = np.random.default_rng(0), 0.05
    alarms = sum(drifted(shifts_between(figures(dice, 300), figures(dice, 100)), alpha) for _ in range(DRAWS))
    assert alarms <= 18  # of 200 that are true one in twenty times, so many or fewer in 99 of 100 cases
    assert alarms > 0  # or nothing was tested


@pytest.mark.parametrize(("longer", "harder"), [(2.0, 0.0), (1.0, 0.2)])
def test_a_planted_shift_is_found(longer: float, harder: float) -> None:
    dice = np.random.default_rng(0)
    found = sum(
        drifted(shifts_between(figures(dice, 300), figures(dice, 100, longer, harder)), 0.01)
        for _ in range(50)
    )
    assert found >= 45


def test_too_few_documents_tell_nothing() -> None:
    dice = np.random.default_rng(0)
    assert shifts_between(figures(dice, 300), figures(dice, 19)) == ()
    assert not drifted((), 0.01)


def test_without_a_champion_there_is_all_to_train(source: Files) -> None:
    news = look("nobody", store_corpus(source, CLEANING))
    assert news.due and "no champion yet" in news.sentence
    assert shares(news, Scratch(), Retraining(), 100.0) == {ANEW: (1.0, Scratch())}


def test_the_same_documents_are_no_reason_and_a_new_one_is(source: Files, tmp_path: Path) -> None:
    corpus = store_corpus(source, CLEANING)
    same = look("mine", corpus)
    assert not same.due and same.new_documents == 0 and same.champion_version == 1
    assert "nothing is new since version 1: 0 of 120 documents are new" in same.sentence
    fresh = write(
        tmp_path / "new.jsonl", ["a text that nobody has seen\n", *tiny_run.labelled(30, seed=5)[0]]
    )
    more = store_corpus(Files(paths=(*source.paths, *fresh.paths)), CLEANING)
    news = look("mine", more)
    assert news.due and news.new_documents == 31 and not news.drifted, news.sentence
    assert [shift.documents_now for shift in news.shifts] == [31, 31]
    assert not look("mine", more, least_new_documents=32).due
    marker = home.store(Corpus.kind) / corpus.key / "complete"
    marker.unlink()
    lost = look("mine", more)
    marker.touch()
    assert lost.due and lost.new_documents is None and "not in the store" in lost.sentence


@pytest.mark.parametrize("name", ["mine", "labels"])
def test_inputs_of_another_kind_are_drift_and_those_of_the_same_are_not(
    source: Files, tmp_path: Path, name: str
) -> None:
    if name == "labels":
        crown(name, source, "classification")
    corpus = store_corpus(source, CLEANING)
    alike = look(name, corpus, write(tmp_path / "alike.jsonl", tiny_run.labelled(80, seed=9)[0]))
    assert not alike.due, alike.sentence
    shouted = [f"{text.upper()} {number} ???" for number, text in enumerate(tiny_run.texts(80, seed=11))]
    other = look(name, corpus, write(tmp_path / "other.jsonl", shouted))
    assert other.due and other.drifted and other.new_documents == 0, other.sentence
    assert other.shifts[1].p_value < 0.005 and "drift in 80 documents of files: " in other.sentence


def test_the_champion_reads_as_it_was_judged(source: Files) -> None:
    """What is held against each other is measured alike: the same documents have the same figures."""
    folder = home.run_folder("run-mine")
    judged = as_judged(pq.read_table(folder / "report" / "test_documents.parquet"))
    assert len(judged) > 20
    documents = home.store(Corpus.kind) / store_corpus(source, CLEANING).key / "documents.parquet"
    ours, theirs = (
        {(size, round(bits, 4)) for size, bits in zip(*read.to_pydict().values(), strict=True)}
        for read in (surprise(folder / "final" / "model", pq.read_table(documents), 30.0), judged)
    )
    assert theirs <= ours


def test_a_budget_is_divided_as_asked_where_both_trainings_have_time() -> None:
    news = News(
        key="k",
        model_name="m",
        champion_version=2,
        champion_folder="folder",
        documents=9,
        new_documents=1,
        alpha=0.01,
        least_new_documents=1,
    )

    def parts(left: float, share: float = 0.5) -> dict[str, float]:
        found = shares(news, Scratch(), Retraining(continued_share=share), left)
        return {name: part for name, (part, _) in found.items()}

    assert parts(600) == {CONTINUED: 0.5, ANEW: 0.5}
    assert parts(600, 0.2) == {CONTINUED: 0.2, ANEW: 0.8}
    assert parts(110) == {CONTINUED: 1.0} and parts(200, 0.2) == {ANEW: 1.0}
    assert parts(600, 1.0) == {CONTINUED: 1.0} and parts(600, 0.0) == {ANEW: 1.0}
    assert parts(math.inf, 0.3) == {CONTINUED: 0.3, ANEW: 0.7}
    assert shares(news, Scratch(), Retraining(), 600)[CONTINUED][1] == Pretrained(name="folder")
    assert not shares(news.model_copy(update={"new_documents": 0}), Scratch(), Retraining(), 600)


def test_without_a_reason_nothing_is_trained_and_the_run_is_completed(
    source: Files, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = retrain_where_due(
        budget="1m", source=source, cleaning=CLEANING, promotion=Promotion(name="mine"), return_state=True
    )
    assert state.is_completed()
    found = state.result()
    assert isinstance(found, Retrained) and not found.runs
    tell(found.run_id, as_json=True)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["news"]["due"] is False and told["news"]["new_documents"] == 0
    tell(found.run_id, as_json=False)
    assert "nothing was trained" in capsys.readouterr().out
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def test_a_recipe_may_say_what_is_seen_and_a_missing_folder_is_told_before_anything_starts(
    module_home: Path,
) -> None:
    with pytest.raises(InputError, match=r"seen.paths: .*nowhere"):
        read_request(
            "my-text", None, None, ["source.paths=README.md", "seen.kind=files", "seen.paths=nowhere"]
        )


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_new_documents_are_trained_on_in_both_ways_within_one_budget(
    corpus_files: Path, fresh_home: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(home.STARTED_VARIABLE, raising=False)
    given = {
        "source": Files(paths=(str(corpus_files),)),
        "model": Scratch(depth=1),
        "search": Search(share=0),
        "validation": Validation(test_share=0.15, validation_share=0.1, folds=0),
        "promotion": Promotion(name="mine"),
    }
    try:
        first = retrain_where_due(budget="100s", **given, return_state=True).result()
        (corpus_files / "new.txt").write_text("def seen_by(nobody):\n    return nobody + 1\n" * 5)
        began = time.time()
        second = retrain_where_due(budget="220s", **given, return_state=True).result()
        took = time.time() - began
    finally:
        stop_ray()
    assert list(first.runs) == [ANEW] and first.verdicts[ANEW].endswith("champion, as the first of its name")
    assert list(second.runs) == [CONTINUED, ANEW]
    assert not any(one.failure for one in second.runs.values()), second.sentence()
    assert took < 1.05 * 220
    client = tracking.client()
    versions = {int(one.version) for one in client.search_model_versions("name = 'shoestring-mine'")}
    assert versions == {1, 2, 3}
    blueprint = home.run_folder(second.runs[CONTINUED].run_id) / "blueprint.json"
    assert json.loads(blueprint.read_text())["model"]["name"] == second.news.champion_folder
    shared = [one.mlflow_run_id for one in second.runs.values()]
    parents = {client.get_run(str(run)).data.tags[tracking.PARENT_TAG] for run in shared}
    assert len(parents) == 1
