"""What a fold is judged on: its own documents, the same ones of those that folds share, and never beyond the time."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_shards import tiny_blueprint, write_shards
from training.budget import TokenCount
from training.data import BYTES, Sample, Shards, Slice
from training.held_out import LEAST_TOKENS, held_out_sample, read_scores, score_in_time
from training.metrics import Floats, parts_in_time
from training.worker import Assignment, carry_out

PACE = 100_000  # tokens a second of a scorer


@pytest.fixture
def shards(tmp_path: Path, corpus_texts: list[str]) -> Shards:
    return write_shards(tmp_path / "shards", corpus_texts)


def scorer(sample: Sample) -> Floats:
    time.sleep(sum(map(len, sample.documents)) / PACE)
    return np.array([float(len(ids)) for ids in sample.documents])


def texts(length: int, count: int) -> Sample:
    documents = [np.zeros(length, np.int64)] * count
    return Sample(documents, np.full(count, -1), np.ones(count))


def test_naive_folds_are_as_many_and_as_large_and_others(shards: Shards) -> None:
    every = len(shards.documents("train"))
    naive = [Slice(shards, only_fold=fold, naive=True).rows() for fold in range(3)]
    assert Counter(np.concatenate(naive).tolist()) == Counter(range(every))
    assert np.ptp([len(rows) for rows in naive]) <= 1
    rest = Slice(shards, without_fold=1, naive=True).rows()
    assert sorted([*rest, *naive[1]]) == list(range(every))
    assert set(naive[0]) != set(Slice(shards, only_fold=0).rows())


def test_beginnings_stand_for_their_share_of_bytes(shards: Shards) -> None:
    fold = Slice(shards, only_fold=1)
    rows, whole = held_out_sample(fold, 10**9)
    assert sorted(rows) == sorted(fold.rows())
    assert whole.weights.sum() == fold.documents()[:, BYTES].sum()
    rows, part = held_out_sample(fold, 100 * len(rows))
    assert len(part.documents) == len(rows) == len(fold.rows())
    assert {len(ids) for ids in part.documents} <= {99, 100}
    assert part.weights.tolist() == [len(ids) - 1 for ids in part.documents]  # one token a byte here


def test_of_too_many_documents_all_folds_take_the_same_ones(shards: Shards) -> None:
    few = LEAST_TOKENS * 10
    chosen = [held_out_sample(Slice(shards, only_fold=fold), few) for fold in range(3)]
    naive = [held_out_sample(Slice(shards, only_fold=fold, naive=True), few) for fold in range(3)]
    ours, theirs = (np.concatenate([rows for rows, _ in found]) for found in (chosen, naive))
    assert set(ours) == set(theirs)
    assert len(ours) == 30 < len(shards.documents("train"))
    assert all(len(ids) == LEAST_TOKENS for _, sample in chosen for ids in sample.documents)


def test_a_classifier_s_documents_all_count_as_one(shards: Shards) -> None:
    fold = Slice(shards, only_fold=0)
    rows, sample = held_out_sample(fold, 1, context=32)
    assert sorted(rows) == sorted(fold.rows())
    assert set(sample.weights) == {1.0} and {len(ids) for ids in sample.documents} == {32}
    truth = dict(zip(fold.rows().tolist(), fold.texts().labels.tolist(), strict=True))
    assert [truth[row] for row in rows.tolist()] == sample.labels.tolist()


def test_scoring_ends_in_time_with_the_first_documents() -> None:
    sample = texts(500, count=2000)  # 10 s
    began = time.time()
    nats = score_in_time(scorer, sample, until=began + 1.0)
    assert 0.5 < time.time() - began < 1.3
    assert 50 < len(nats) < 250
    assert set(nats) == {500.0}
    assert len(score_in_time(scorer, texts(500, count=40), until=time.time() + 60)) == 40
    assert len(score_in_time(scorer, texts(500, count=40))) == 40
    assert len(score_in_time(scorer, sample, until=time.time() - 1)) == 0
    assert len(score_in_time(scorer, texts(1, count=0))) == 0


def test_parts_follow_each_other_and_leave_nothing_out() -> None:
    ends = np.cumsum([5, 1, 40, 3, 3, 200, 1])
    parts = [(part.start, part.stop) for part in parts_in_time(ends, first=6, most=50)]
    assert parts == [(0, 2), (2, 5), (5, 6), (6, 7)]
    assert [part.stop for part in parts_in_time(ends, 6, 50, limit_seconds=-1)] == [2]


def test_an_assignment_scores_documents_of_the_fold_that_it_left_out(shards: Shards, tmp_path: Path) -> None:
    for naive in (False, True):
        assignment = Assignment(
            folder=tmp_path / f"{naive}",
            blueprint=tiny_blueprint(),
            shards=shards.folder,
            clock=TokenCount(5 * 128),
            without_fold=1,
            naive=naive,
            looks=(),
            held_out_tokens=2000,
        )
        outcome = carry_out(assignment)
        scores = read_scores(assignment.folder)
        assert set(scores[:, 0]) <= set(Slice(shards, only_fold=1, naive=naive).rows())
        assert len(scores) == outcome.documents > 20
        assert scores[:, 1].sum() == pytest.approx(outcome.nats)
        assert scores[:, 2].sum() == pytest.approx(outcome.weight)
