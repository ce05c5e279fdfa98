"""The difference between two models on the same documents, and how sure it is: documents and trainings count.

Its variance is that of the paired differences over documents and that of two independent trainings.
The latter are estimates from few runs, so Student's distribution takes the place of the normal one, with
the degrees of freedom of Welch and Satterthwaite (Welch 1947).
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from tasks.resampling import Floats, Ints, bootstrap, standard_error
from tasks.seed_noise import SeedNoise
from training.units import bits


class Difference(NamedTuple):
    """Challenger - champion, in bits: negative is better. Errors are standard deviations of it."""

    challenger_bits: float
    champion_bits: float
    documents_error: float
    runs_error: float
    freedom: float
    documents: int

    @property
    def bits(self) -> float:
        return self.challenger_bits - self.champion_bits

    @property
    def error(self) -> float:
        """Of documents and trainings together."""
        return float(np.hypot(self.documents_error, self.runs_error))

    def chance_below(self, limit: float = 0.0) -> float:
        """The p-value of "the difference is below `limit`": one-sided, where in truth it is the limit."""
        return self._chance(self.bits - limit)

    def chance_above(self, limit: float = 0.0) -> float:
        """The p-value of "the difference is above `limit`"."""
        return self._chance(limit - self.bits)

    def chance_either(self) -> float:
        """The p-value of "the difference is not zero": two-sided."""
        return min(1.0, 2 * min(self.chance_below(), self.chance_above()))

    def _chance(self, far: float) -> float:
        if self.error == 0:  # equal in every document, and no noise
            return 0.0 if far < 0 else 1.0
        return float(stats.t.cdf(far / self.error, self.freedom))

    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        half = float(stats.t.ppf(0.975, self.freedom)) * self.error
        return self.bits - half, self.bits + half


def difference(
    challenger: Floats,
    champion: Floats,
    weight: Ints,
    noises: tuple[SeedNoise, SeedNoise],
    exact: bool = False,
) -> Difference:
    """Of the same documents' nats; `noises` are the challenger's and the champion's.

    `exact` resamples the documents, instead of using the formula that this tends to.
    """
    total, count = int(weight.sum()), len(weight)
    scores = bits(float(challenger.sum()), total), bits(float(champion.sum()), total)
    if exact:  # a bootstrap's variance is that of a sample's, so too small by (n - 1)/n
        over_documents = (
            float(np.std(bootstrap(challenger - champion, weight))) * (count / max(1, count - 1)) ** 0.5
        )
    else:
        over_documents = standard_error(challenger - champion, weight)
    runs = [(noise.relative * score) ** 2 for noise, score in zip(noises, scores, strict=True)]
    parts = [(over_documents**2, max(1.0, count - 1.0))]
    if noises[0] == noises[1]:  # one estimate, used twice: it does not become surer by that
        parts.append((sum(runs), noises[0].freedom))
    else:
        parts += [(run, noise.freedom) for run, noise in zip(runs, noises, strict=True)]
    whole = sum(variance for variance, _ in parts)
    freedom = whole**2 / sum(variance**2 / degrees for variance, degrees in parts) if whole else 1.0
    return Difference(*scores, over_documents, sum(runs) ** 0.5, freedom, count)
