"""The scaling law of short trainings: bits from size and tokens, with what is not known about it.

The form is that of Hoffmann et al. 2022 (section 3.3), with repeated tokens worth less (Muennighoff
et al. 2023) and large batches worth less (McCandlish et al. 2018, equation 2.11). Its constants are
those of our own trainings of minutes, as the published ones are of models a thousand times larger:
each text has constants of its own, of which `PRIORS` say how they vary. What a run measures, and
what earlier ones have shown, narrows them down (a Laplace approximation).
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from training.budget import EXCESS_DECAY, REPEATS_DECAY, worth

Vector = npt.NDArray[np.float64]

# Of the score of two trainings that differ in their seeds alone, relative standard deviation; measured.
NOISE, LABELS_NOISE = 0.01, 0.08
# Below so many bytes the curves are another; what is seen there is doubted by so much for each factor of e.
EARLY_BYTES, EARLY_MASKED_BYTES, EARLY_DOUBT = 300_000.0, 900_000.0, 0.15
# A batch of so many bytes wants twice the text (measured, see DECISIONS); the constants are those of the other.
CRITICAL_BATCH_BYTES, MEASURED_BATCH_BYTES = 40_000.0, 6_000.0
BYTES_PER_PARAMETER = (
    6.0  # of new text that fill a parameter; by eye, from where our models of minutes are best
)
# How much the slope of a text's curve differs further on from where it was seen: standard deviation over seven texts.
DRIFT = 0.022
NORMAL_90 = 1.645  # standard deviations to either side that hold 90 %


class Point(NamedTuple):
    """A training that has been seen: `text_bytes` are those read, all passes together, `unique` those there are.

    `error` is the relative standard error of `bits`.
    """

    parameters: float
    text_bytes: float
    unique: float
    bits: float
    error: float
    batch_bytes: float = MEASURED_BATCH_BYTES


class Forecast(NamedTuple):
    """A score that is expected, and the interval that holds it in nine of ten cases."""

    bits: float
    low: float
    high: float


def log_bits(constants: Vector, point: Point, repeats: float) -> float:
    """log(E + B / worth(text)^beta + A / parameters^alpha), text in MB, parameters in millions.

    `constants` are log E, log B, beta, log A, alpha; the worth of text that was seen before decays with `repeats`.
    """
    floor, text, beta, size, alpha = constants
    wanted = (CRITICAL_BATCH_BYTES + point.batch_bytes) / (CRITICAL_BATCH_BYTES + MEASURED_BATCH_BYTES)
    read = worth(point.text_bytes / wanted, point.unique, repeats) / 1e6
    filled = worth(point.parameters, point.unique / BYTES_PER_PARAMETER, EXCESS_DECAY) / 1e6
    terms = (floor, text - beta * np.log(read), size - alpha * np.log(filled))
    return float(np.logaddexp.reduce(terms))


def gradient(constants: Vector, point: Point, repeats: float) -> Vector:
    """float64 [constants]: how `log_bits` moves with each, by central differences."""
    shifts = 1e-4 * np.eye(len(constants))
    return np.array(
        [
            (log_bits(constants + d, point, repeats) - log_bits(constants - d, point, repeats)) / 2e-4
            for d in shifts
        ]
    )


def doubt(point: Point, early_bytes: float, noise: float) -> float:
    """The variance of log bits about the law, for a training like this."""
    early = EARLY_DOUBT * max(0.0, float(np.log(early_bytes / point.text_bytes)))
    return point.error**2 + noise**2 + early**2


class Law(NamedTuple):
    """Constants, as a mean and a covariance, and the most text that any training read which informed them.

    `repeats` says how fast the worth of repeated text decays, see `training.budget.worth`; trainings of
    less than `early_bytes` are doubted. `noise` is what seeds make of a score, a relative standard deviation.
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    reached_bytes: float | None = None
    repeats: float = REPEATS_DECAY
    early_bytes: float = EARLY_BYTES
    noise: float = NOISE

    def informed(self, points: Sequence[Point]) -> Self:
        """The law after these trainings were seen."""
        if not points:
            return self
        prior, whitened = np.array(self.mean), np.linalg.inv(np.linalg.cholesky(np.array(self.covariance)))
        seen = np.log([point.bits for point in points])
        deviations = np.sqrt([doubt(point, self.early_bytes, self.noise) for point in points])

        def misfits(at: Vector) -> Vector:
            expected = np.array([log_bits(at, point, self.repeats) for point in points])
            return np.concatenate([(expected - seen) / deviations, whitened @ (at - prior)])

        found = least_squares(misfits, prior, x_scale=np.sqrt(np.diag(np.array(self.covariance))))
        at, curvature = found.x, found.jac.T @ found.jac
        return self._replace(
            mean=tuple(map(float, at)),
            covariance=tuple(tuple(map(float, row)) for row in np.linalg.inv(curvature)),
            reached_bytes=max(self.reached_bytes or 0.0, *(point.text_bytes for point in points), 0.0),
        )

    def bits(self, point: Point) -> float:
        """What is expected of a training; what `point` scored is not looked at."""
        return float(np.exp(log_bits(np.array(self.mean), point, self.repeats)))

    def forecast(self, point: Point) -> Forecast:
        """What is expected of a training like `point`; its error is that of the score, beside the law's own."""
        at = np.array(self.mean)
        slopes = gradient(at, point, self.repeats)
        beyond = np.log(point.text_bytes / self.reached_bytes) if self.reached_bytes else 0.0
        drift = DRIFT * max(0.0, float(beyond))
        variance = (
            float(slopes @ np.array(self.covariance) @ slopes)
            + doubt(point, self.early_bytes, self.noise)
            + drift**2
        )
        middle, half = float(log_bits(at, point, self.repeats)), NORMAL_90 * variance**0.5
        return Forecast(*(float(np.exp(middle + shift)) for shift in (0.0, -half, half)))

    def slope(self, point: Point) -> float:
        """How the score falls with more reading: d log bits / d log bytes, negative."""
        more = self.bits(point._replace(text_bytes=1.1 * point.text_bytes))
        return float(np.log(more / self.bits(point)) / np.log(1.1))


def independent(
    mean: Sequence[float],
    deviations: Sequence[float],
    repeats: float = REPEATS_DECAY,
    early_bytes: float = EARLY_BYTES,
    noise: float = NOISE,
) -> Law:
    """A law whose constants vary on their own."""
    covariance = tuple(tuple(map(float, row)) for row in np.diag(np.square(deviations)))
    return Law(tuple(mean), covariance, repeats=repeats, early_bytes=early_bytes, noise=noise)


# How the constants vary from text to text: seven texts, depths 1 to 4, 100,000 tokens and more, some read up to nine
# times, 1.2 % off in the mean; the deviations are wider than theirs, as seven are few. Text read again is worth little:
# such small models, so quickly trained, have learned by heart what they can, and two layers are soon full.
# `make bench BENCH=planning ARGS="--part law"` holds them against a text.
CAUSAL = independent((-1.45, 0.39, 0.20, -2.35, 0.37), (0.2, 0.15, 0.04, 0.15, 0.08), repeats=2.3)
# Masked models learn little at first and then all at once, when they begin to look around: three texts, depths 1 to 3,
# 0.3 to 3 M tokens, by eye.
MASKED = independent(
    (-1.4, 0.72, 0.40, -2.0, 0.54), (0.6, 0.3, 0.10, 0.5, 0.2), early_bytes=EARLY_MASKED_BYTES
)
# Labels: functions of 4 and of 20 packages, sst2; depths 1 to 3, up to three passes, by eye. What can be told from a
# text differs by more than texts do.
LABELS = independent(
    (-1.2, -0.8, 0.40, -3.8, 0.5), (1.0, 1.0, 0.15, 0.7, 0.2), repeats=0.4, noise=LABELS_NOISE
)
PRIORS = {"causal": CAUSAL, "masked": MASKED, "classification": LABELS}
