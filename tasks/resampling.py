"""How sure a score is over documents: by resampling them, and by the formula that this tends to."""

import numpy as np
import numpy.typing as npt

from training.units import bits

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 2000
DRAWN_AT_ONCE = 500_000  # documents, in as many resamples; more would not be faster


def bootstrap(nats: Floats, weight: Ints, seed: int = 0) -> Floats:
    """float64 [RESAMPLES]: bits per weight of resamples of the documents, sum over sum.

    `nats` may also be differences between two models on the same documents: the paired bootstrap.
    """
    count, dice = len(nats), np.random.default_rng(seed)
    at_once = max(1, DRAWN_AT_ONCE // max(1, count))
    found = []
    for start in range(0, RESAMPLES, at_once):
        rows = dice.integers(count, size=(min(at_once, RESAMPLES - start), count), dtype=np.int32)
        found.append(nats[rows].sum(1) / weight[rows].sum(1) / np.log(2))
    return np.concatenate(found)


def standard_error(nats: Floats, weight: Floats | Ints) -> float:
    """Of bits per weight, over documents: what the spread of `bootstrap` tends to, by a formula (Cochran 1977, 6.4).

    Of one document it is zero.
    """
    total, count = float(weight.sum()), len(nats)
    misfits = nats - weight * (nats.sum() / total)
    return bits(float(np.sqrt(np.sum(misfits**2) * count / max(1, count - 1))), total)
