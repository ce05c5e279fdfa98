"""The pictures: drawn from what runs leave, also from little of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tasks import plots
from tasks.artifacts import Folds

JOURNAL = [
    {"event": "step", "step": 1, "seconds": 1.0, "loss": 6.0},
    {"event": "step", "step": 2, "seconds": 2.0, "loss": 4.0},
    {"event": "validation", "step": 2, "seconds": 2.0, "bits": 3.0},
]


def journal(path: Path, events: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_smoothing_is_a_weighted_mean_of_the_losses_so_far() -> None:
    seconds, losses = plots.smooth_losses(JOURNAL)
    assert seconds == [1.0, 2.0]
    assert losses[0] == 6.0
    assert losses[1] == pytest.approx((plots.SMOOTHING * 6 + 4) / (plots.SMOOTHING + 1))
    assert plots.validations(JOURNAL) == ([2.0], [3.0])


@pytest.mark.parametrize("events", [JOURNAL, JOURNAL[:1], []])
def test_a_learning_curve_of_any_length(tmp_path: Path, events: list[dict[str, object]]) -> None:
    final, other = journal(tmp_path / "final.jsonl", events), journal(tmp_path / "other.jsonl", JOURNAL)
    drawn = plots.learning_curve(final, [other], tmp_path / "new" / "curve.png")
    height, width, _ = imread(drawn).shape
    assert (round(width, -1), round(height, -1)) == (1040, 520)


def test_trials_with_and_without_values(tmp_path: Path) -> None:
    pruned = {"number": 1, "state": "PRUNED", "value": None}
    full = [
        {"number": 0, "state": "COMPLETE", "value": 2.0},
        pruned,
        {"number": 2, "state": "FAIL", "value": None},
    ]
    pictures = [
        plots.trials(found, tmp_path / f"{len(found)}.png").read_bytes()
        for found in ([], [pruned, pruned], full)
    ]
    assert len(set(pictures)) == 2  # without values there is nothing to see


def test_the_objective_s_unit_stands_at_the_axes(tmp_path: Path) -> None:
    path = journal(tmp_path / "final.jsonl", JOURNAL)
    pictures = {
        plots.learning_curve(path, [], tmp_path / "curve.png", unit).read_bytes()
        for unit in ("bits per byte", "bits per label")
    }
    assert len(pictures) == 2


@pytest.mark.parametrize("kinds", [2, 5, 40])
def test_a_confusion_matrix_of_few_and_many_labels(tmp_path: Path, kinds: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (kinds, kinds)) + 20 * np.eye(kinds, dtype=np.int64)
    counts[0] = 0  # a label that no document has
    labels = [f"package.of.a.long.name.{number}" for number in range(kinds)]
    drawn = plots.confusion(counts, labels, tmp_path / "confusion.png")
    height, width, _ = imread(drawn).shape
    assert max(height, width) <= 1.01 * plots.WIDTH_INCHES * plots.DOTS_PER_INCH


def test_reliability_of_many_documents_and_of_one(tmp_path: Path) -> None:
    sure = np.random.default_rng(0).uniform(0.5, 1, 500)
    many = plots.reliability(sure, np.random.default_rng(1).uniform(size=500) < sure, tmp_path / "a.png")
    one = plots.reliability(np.array([1.0]), np.array([True]), tmp_path / "b.png")
    assert many.read_bytes() != one.read_bytes()


def test_folds_or_why_there_are_none(tmp_path: Path) -> None:
    some = Folds(key="k", scores=(1.4, 1.5), mean=1.45, low=1.3, high=1.6, seconds_each=9, reason="two fit")
    none = Folds(
        key="k", scores=(), mean=None, low=None, high=None, seconds_each=0, reason="the budget is short"
    )
    one = Folds(key="k", scores=(1.4,), mean=1.4, low=None, high=None, seconds_each=9, reason="one fits")
    naive = some.model_copy(update={"naive": 1.3, "instead_of": 1.42})
    pictures = [
        plots.folds(found, (1.2, 1.1, 1.3), tmp_path / "f.png").read_bytes()
        for found in (some, none, one, naive, some)
    ]
    assert len(set(pictures)) == 4
    assert pictures[0] == pictures[4]
