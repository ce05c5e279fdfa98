"""Folds say how good the recipe is and how sure that is; near-duplicates flatter no fold; late folds are left out."""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prefect import flow

from tasks import cross_validate as module
from tasks.artifacts import Corpus, Folds, Splits, Tokens
from tasks.card import _folds
from tasks.clock import Clock
from tasks.cluster import Compute
from tasks.cross_validate import Folding, Name, report
from tasks.fold_scores import NAIVE, compare, corrected_interval, describe, held_out_ratio, summarise
from tasks.home import run_folder
from tasks.planned import Plan
from tasks.ray_session import stop_ray
from tasks.register import figures
from tasks.split import fold_trainings
from tasks.telemetry import Stage
from tasks.workers import workers_of
from tests import tiny_run
from tests.planted import groups_of, planted_blueprint, planted_tokens
from tests.test_plan import MEASURED
from tests.tiny_shards import write_shards
from training.budget import TokenCount
from training.data import Shards, Slice
from training.objectives import CausalLanguageModel, MaskedLanguageModel, Objective, SequenceClassification
from training.worker import Assignment, carry_out

OBJECTIVES = (CausalLanguageModel(), MaskedLanguageModel(), SequenceClassification())
SECONDS = 15.0  # of all folds


# The interval


def test_the_interval_is_that_of_nadeau_and_bengio() -> None:
    low, high = corrected_interval([1.0, 2.0, 3.0, 4.0], 1 / 3)
    half = 2.353363 * 1.290994 * 0.763763  # t(0.95, 3), s, sqrt(1/4 + 1/3)
    assert (low, high) == pytest.approx((2.5 - half, 2.5 + half), rel=1e-5)


def test_it_covers_the_truth_as_often_as_it_says_where_trainings_share_their_text() -> None:
    """Scores correlate by the share held out, which is what the correction assumes."""
    folds, draws, dice = 4, 4000, np.random.default_rng(0)
    shared = dice.normal(0, math.sqrt(1 / folds), (draws, 1))
    scores = 1.5 + shared + dice.normal(0, math.sqrt(1 - 1 / folds), (draws, folds))
    for ratio, least, most in ((1 / (folds - 1), 0.88, 0.92), (0.0, 0.6, 0.8)):
        covered = [low < 1.5 < high for low, high in (corrected_interval(row, ratio) for row in scores)]
        assert least < np.mean(covered) < most


def test_the_ratio_is_of_the_folds_own_sizes_in_what_the_objective_counts(
    tmp_path: Path, corpus_texts: list[str]
) -> None:
    shards = write_shards(tmp_path, ["x" * 10 * (1 + number) for number in range(40)], folds=2)
    sizes = [Slice(shards, only_fold=fold).texts().weights.sum() for fold in range(2)]
    counts = [len(Slice(shards, only_fold=fold).documents()) for fold in range(2)]
    assert held_out_ratio(shards, [0, 1], counts_documents=False) == 1.0
    assert held_out_ratio(shards, [0], counts_documents=False) == sizes[0] / sizes[1] != 1.0
    assert held_out_ratio(shards, [0], counts_documents=True) == counts[0] / counts[1]
    assert held_out_ratio(shards, [], counts_documents=True) == 0.0


def summary(scores: list[float], **others: object) -> Folds:
    facts = {"key": "k", "seconds_each": 9.0, "reason": f"{len(scores)} of 4 folds"} | others
    return summarise(scores, 1 / 3, "documents and trainings of 9 s", **facts)


def test_few_folds_say_no_more_than_they_can() -> None:
    assert summary([]).mean is None
    assert "no score by folds: 0 of 4 folds" in describe(summary([]), "bits per byte")
    one = summary([1.4])
    assert (one.mean, one.standard_error, one.low, one.high) == (1.4, None, None, None)
    assert describe(one, "bits per byte") == "1.400 bits per byte, 1 of 4 folds"
    four = summary([1.4, 1.5, 1.6, 1.7])
    assert four.standard_error == pytest.approx(np.std(four.scores, ddof=1) / 2)
    assert four.low is not None and four.high is not None and four.standard_error is not None
    assert four.high - four.low > 2 * 2.353 * four.standard_error
    assert "90 %" in describe(four, "bits per byte") and "standard error" in describe(four, "bits per byte")


def test_card_mlflow_and_the_record_s_table_show_all_of_it(module_home: Path) -> None:
    trained, judged = tiny_run.judged("folded")
    found = summary([1.4, 1.5, 1.6, 1.7], naive=1.2, instead_of=1.5, near_duplicates="a naive split said 1.2")
    told = judged.model_copy(update={"folds": found})
    row = _folds(told)
    for part in ("1.5500", "90 %", "trainings of 9 s", "standard error 0.0645", "a naive split said 1.2"):
        assert part in row
    logged = {name: value for name, value in figures(trained, told).items() if name.startswith("folds/")}
    assert logged == {
        "folds/bits": found.mean,
        "folds/bits_low": found.low,
        "folds/bits_high": found.high,
        "folds/bits_standard_error": found.standard_error,
        "folds/naive_bits": 1.2,
        "folds/naive_difference": pytest.approx(-0.3),
    }
    assert not [name for name in figures(trained, judged) if name.startswith("folds/")]
    shown = {row["figure"]: row["value"] for row in found.rows()}
    assert shown["near_duplicates"] == "a naive split said 1.2"
    assert shown["interval_covers"] == "documents and trainings of 9 s"


# Near-duplicates


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one.head)
def test_no_planted_duplicate_leaks_and_nearly_all_would_in_a_naive_split(
    objective: Objective, tmp_path: Path, module_home: Path
) -> None:
    tokens = planted_tokens(tmp_path, objective)
    shards, splits = Shards(tokens.folder), tokens.splits
    assert splits.repeated == splits.documents["train"] > 200
    assert fold_trainings(splits) == 5
    for fold in range(4):
        for naive in (False, True):
            held_out = groups_of(tokens, Slice(shards, only_fold=fold, naive=naive))
            seen = set(groups_of(tokens, Slice(shards, without_fold=fold, naive=naive)))
            leaked = [group in seen for group in held_out]
            assert held_out
            assert np.mean(leaked) > 0.9 if naive else not any(leaked)


@pytest.mark.parametrize(
    ("objective", "steps", "gain"),
    [(OBJECTIVES[0], 100, 0.3), (OBJECTIVES[1], 200, 0.02), (OBJECTIVES[2], 40, 0.3)],
    ids=lambda value: getattr(value, "head", ""),
)
def test_a_naive_split_flatters_a_real_training(
    objective: Objective, steps: int, gain: float, tmp_path: Path, module_home: Path
) -> None:
    tokens = planted_tokens(tmp_path / "rows", objective)
    for name in (NAIVE, 0):
        carry_out(
            Assignment(
                folder=tmp_path / f"{name}",
                blueprint=planted_blueprint(tokens, objective),
                shards=tokens.folder,
                clock=TokenCount(steps * 512),
                without_fold=0,
                naive=name == NAIVE,
                looks=(),
                held_out_tokens=20_000,
            )
        )
    naive, ours, documents = compare(tmp_path, [0])
    shards = Shards(tokens.folder)
    both = set(Slice(shards, only_fold=0).rows()) & set(Slice(shards, only_fold=0, naive=True).rows())
    assert documents == len(both) > 5
    assert naive < ours - gain


def test_few_near_duplicates_cost_no_training() -> None:
    def trainings(repeated: int, folds: int = 4) -> int:
        corpus = Corpus(key="c", source="s", documents_read=0, documents=0, bytes=0, dropped={}, changed={})
        splits = Splits(
            key="s",
            corpus=corpus,
            documents={"train": 1000},
            bytes={},
            folds=folds,
            near_duplicates=0,
            repeated=repeated,
        )
        return fold_trainings(splits)

    assert [trainings(repeated) for repeated in (0, 9, 10, 500)] == [4, 4, 5, 5]
    assert trainings(500, folds=0) == 0


# The stage, on real workers


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    yield
    stop_ray()


@pytest.fixture
def workers(module_home: Path, prefect_server: str) -> Compute:
    """Two of them, ready: they import a lot."""
    compute = Compute(workers=2, device="cpu")
    workers_of(compute).wait_ready()
    return compute


def folded(tokens: Tokens, compute: Compute, seconds: float, run: str, **learning: object) -> Folding:
    """All trainings of a cross-validation, as the stage has them; `plan` holds what folds ask of it."""
    run_folder(run).mkdir(parents=True)
    blueprint = planted_blueprint(tokens, CausalLanguageModel(), **learning)
    plan = Plan.model_construct(
        key=run,
        clock=Clock.model_construct(run_id=run, run_name=run),
        blueprint=blueprint,
        tokens=tokens,
        compute=compute,
        calibration=MEASURED,
        workers=2,
        tokens_per_second=40_000.0,
        folds_seconds=seconds,
        fold_tokens=None,
        final_seconds=100.0,
        final_tokens=None,
    )
    names: list[Name] = [0, 1, 2, 3]
    folding = Folding(blueprint, plan, tokens, names + [NAIVE] * (fold_trainings(tokens.splits) > 4))

    @flow(name=run)
    def all_folds() -> None:
        folding.run(Stage("folds"))

    all_folds()
    return folding


def told(folding: Folding) -> Folds:
    return report(folding, 4, run_folder(folding.plan.clock.run_id) / "folds")


def test_the_report_shows_what_a_naive_split_would_have_said(workers: Compute, tmp_path: Path) -> None:
    tokens = planted_tokens(tmp_path, CausalLanguageModel())
    began = time.time()
    folding = folded(tokens, workers, SECONDS, "planted")
    assert time.time() - began < SECONDS + 2
    found = told(folding)
    assert len(found.scores) == 4 and not folding.problems
    assert found.naive is not None and found.instead_of is not None
    assert found.naive < found.instead_of - 0.1
    assert f"would have said {found.naive:.3f} instead of {found.instead_of:.3f}" in found.near_duplicates
    assert f"said {found.naive:.3f} instead of {found.instead_of:.3f}" in describe(found, "bits per byte")
    assert found.reason.startswith("4 of 4 folds")
    assert "on one worker (the final run: 100 s on 2)" in found.interval_covers
    trained = [folding.done[fold].tokens for fold in range(4)]
    assert folding.done[NAIVE].tokens <= max(trained) + 512  # no longer than those it is compared with
    assert found.seconds_each == pytest.approx(0.75 * SECONDS / 3)  # five trainings of two workers


def test_scoring_that_would_overrun_takes_a_sample_that_fits(
    workers: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_HELD_OUT_TOKENS", 10**9)
    tokens = planted_tokens(tmp_path, CausalLanguageModel(), groups=20_000, copies=1)
    began = time.time()
    folding = folded(tokens, workers, SECONDS, "overrun")
    assert time.time() - began < SECONDS + 2
    found = told(folding)
    assert len(found.scores) == 4, folding.problems
    scored = sum(fold.documents for fold in folding.done.values())
    assert 100 < scored < tokens.splits.documents["train"]
    assert f"{scored:,} of {tokens.splits.documents['train']:,} documents scored" in found.reason
    assert "0 of" in found.near_duplicates and found.naive is None


def test_a_fold_that_is_not_done_in_time_is_cut_and_said(workers: Compute, tmp_path: Path) -> None:
    tokens = planted_tokens(tmp_path, CausalLanguageModel(), groups=400, copies=1)
    one = workers_of(workers).wait_ready()[0]
    halt = threading.Timer(1.0, os.kill, (one, signal.SIGSTOP))
    halt.start()
    began = time.time()
    try:
        folding = folded(tokens, workers, SECONDS, "halted")
    finally:
        halt.join()
        os.kill(one, signal.SIGCONT)
    assert SECONDS - 1 < time.time() - began < SECONDS + 3
    found = told(folding)
    assert 1 <= len(found.scores) < 4
    assert found.reason.startswith(f"{len(found.scores)} of 4 folds")
    assert "it was not over in time" in found.reason
    assert found.mean == np.mean(found.scores)


def test_no_fold_in_time_is_no_score_and_the_run_goes_on(workers: Compute, tmp_path: Path) -> None:
    tokens = planted_tokens(tmp_path, CausalLanguageModel(), groups=400, copies=1)
    found = told(folded(tokens, workers, 0.1, "hurried"))
    assert found.scores == () and found.mean is None
    assert describe(found, "bits per byte").startswith("no score by folds: 0 of 4 folds")


def test_a_recipe_that_diverges_has_no_score_and_says_so(workers: Compute, tmp_path: Path) -> None:
    tokens = planted_tokens(tmp_path, CausalLanguageModel(), groups=400, copies=1)
    wild = {"kind": "adamw", "learning_rate": 1.0, "weight_decay": 10.0}
    found = told(folded(tokens, workers, 40.0, "wild", optimizer=wild, gradient_norm=1e30))
    assert found.mean is None
    assert "fold 0: it diverged" in found.reason
