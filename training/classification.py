"""How good a classifier is beside its log loss: accuracy, macro averages and calibration.

The figures are torchmetrics'; the resamples behind their intervals follow the same definitions in
numpy, as calling a library thousands of times would take minutes.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 15  # of confidence, for the expected calibration error; Guo et al. 2017
NAMES = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "calibration_error")


def classification_metrics(probabilities: Floats, labels: Ints) -> dict[str, float]:
    """The figures of NAMES, in [0, 1]; all but the calibration error are better when higher.

    `probabilities` is float [documents, labels] with rows that sum to 1, `labels` int64
    [documents]. Macro averages leave out a label that no document has and no prediction names.
    The calibration error is the mean gap between confidence and accuracy over BINS equal bins of
    confidence. Raises ValueError where there is no document.
    """
    import torch  # 180 MB, without which a corpus can be cleaned and plotted
    from torchmetrics.functional import classification as metrics  # takes a second

    if not len(labels):
        raise ValueError("there is no document to measure on")
    kinds = probabilities.shape[1]
    chances, truth = torch.from_numpy(_single(probabilities)), torch.from_numpy(labels)
    shared = {"num_classes": kinds, "validate_args": False}
    found = {
        "accuracy": metrics.multiclass_accuracy(chances, truth, average="micro", **shared),
        "macro_precision": metrics.multiclass_precision(chances, truth, average="macro", **shared),
        "macro_recall": metrics.multiclass_recall(chances, truth, average="macro", **shared),
        "macro_f1": metrics.multiclass_f1_score(chances, truth, average="macro", **shared),
        "calibration_error": metrics.multiclass_calibration_error(chances, truth, n_bins=BINS, **shared),
    }
    return {name: float(found[name]) for name in NAMES}


def resampled_metrics(
    probabilities: Floats, labels: Ints, resamples: int, seed: int = 0
) -> dict[str, Floats]:
    """float64 [resamples] under each of NAMES: the same figures on documents drawn with replacement.

    The calibration error of a resample is a little too high, as bins of few documents are noisy.
    """
    count, kinds = probabilities.shape
    chances = _single(probabilities)
    predicted, confidence = chances.argmax(1), chances.max(1)
    right = predicted == labels
    bins = calibration_bins(confidence)
    gaps = right - confidence.astype(np.float64)
    found = {name: np.empty(resamples) for name in NAMES}
    dice = np.random.default_rng(seed)
    for draw in range(resamples):
        rows = dice.integers(count, size=count, dtype=np.int32)
        true, said, hits = labels[rows], predicted[rows], right[rows]
        one = macro_averages(
            np.bincount(true[hits], minlength=kinds),
            np.bincount(true, minlength=kinds),
            np.bincount(said, minlength=kinds),
        )
        one["accuracy"] = float(hits.mean())
        one["calibration_error"] = float(
            np.abs(np.bincount(bins[rows], gaps[rows], minlength=BINS)).sum() / count
        )
        for name in NAMES:
            found[name][draw] = one[name]
    return found


def macro_averages(hits: Ints, true: Ints, said: Ints) -> dict[str, float]:
    """Macro precision, recall and F1 from three counts of every label, int64 [labels] each.

    `hits`: said and true; `true`: documents of the label; `said`: predictions of it. A ratio
    without a denominator is 0.
    """
    there = (true + said) > 0
    hits, true, said = hits[there], true[there], said[there]
    return {
        "macro_precision": float((hits / np.maximum(said, 1)).mean()),
        "macro_recall": float((hits / np.maximum(true, 1)).mean()),
        "macro_f1": float((2 * hits / (true + said)).mean()),
    }


def calibration_bins(confidence: npt.NDArray[np.float32]) -> Ints:
    """int64 [documents]: the bin of each confidence in [0, 1]; a bin holds its lower edge."""
    import torch

    edges = torch.linspace(0, 1, BINS + 1).numpy()
    return np.minimum(np.searchsorted(edges, confidence, side="right") - 1, BINS - 1).astype(np.int64)


def _single(probabilities: Floats) -> npt.NDArray[np.float32]:
    """As float32 within [0, 1]: torchmetrics takes a 1.0000001 for a logit."""
    return np.clip(probabilities, 0, 1).astype(np.float32)
