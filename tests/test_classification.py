"""Figures of a classifier: as torchmetrics has them, in every resample too, and fast enough to use."""

import time

import numpy as np
import pytest

from training.classification import (
    BINS,
    NAMES,
    Floats,
    Ints,
    calibration_bins,
    classification_metrics,
    macro_averages,
    resampled_metrics,
)


def drawn(documents: int, kinds: int, seed: int = 0) -> tuple[Floats, Ints]:
    """Probabilities that are right more often than chance, and labels of uneven shares."""
    dice = np.random.default_rng(seed)
    labels = np.minimum(dice.geometric(0.4, documents) - 1, kinds - 1)
    logits = dice.normal(0, 1, (documents, kinds))
    logits[np.arange(documents), labels] += 1.0
    odds = np.exp(logits)
    return odds / odds.sum(1, keepdims=True), labels


def test_a_case_small_enough_to_count_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = classification_metrics(probabilities, np.array([0, 0, 1, 1]))
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["macro_precision"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["macro_recall"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.6) / 4)


@pytest.mark.parametrize("kinds", [2, 3, 20])
@pytest.mark.parametrize("documents", [1, 7, 200])
def test_every_resample_is_what_torchmetrics_says_of_it(documents: int, kinds: int) -> None:
    probabilities, labels = drawn(documents, kinds)
    found = resampled_metrics(probabilities, labels, 5, seed=3)
    dice = np.random.default_rng(3)
    for draw in range(5):
        rows = dice.integers(documents, size=documents, dtype=np.int32)
        expected = classification_metrics(probabilities[rows], labels[rows])
        assert {name: found[name][draw] for name in NAMES} == pytest.approx(expected, abs=1e-6)


def test_labels_that_nobody_has_or_says_do_not_count() -> None:
    found = macro_averages(np.array([2, 0, 0]), np.array([2, 0, 1]), np.array([3, 0, 0]))
    assert found["macro_recall"] == pytest.approx((1 + 0) / 2)
    assert found["macro_precision"] == pytest.approx((2 / 3 + 0) / 2)


def test_bins_hold_the_whole_range() -> None:
    bins = calibration_bins(np.array([0, 0.01, 1 / BINS + 1e-6, 0.999, 1.0], dtype=np.float32))
    assert bins.tolist() == [0, 0, 1, BINS - 1, BINS - 1]
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert classification_metrics(certain, np.array([0, 1]))["calibration_error"] == 0
    rounded = np.array([[1.0000001, -1e-9], [0.0, 1.0]])
    assert classification_metrics(rounded, np.array([0, 1]))["calibration_error"] == 0


def test_two_thousand_resamples_of_ten_thousand_documents_take_seconds() -> None:
    probabilities, labels = drawn(10_000, 20)
    used = time.process_time()
    found = resampled_metrics(probabilities, labels, 2000)
    assert time.process_time() - used < 4.0  # 1 s on a quiet machine
    value = classification_metrics(probabilities, labels)
    for name in ("accuracy", "macro_f1"):
        low, high = np.quantile(found[name], [0.025, 0.975])
        assert low < value[name] < high
    spread = np.sqrt(value["accuracy"] * (1 - value["accuracy"]) / 10_000)
    assert found["accuracy"].std() == pytest.approx(spread, rel=0.1)


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ValueError, match="no document"):
        classification_metrics(np.zeros((0, 2)), np.zeros(0, np.int64))
