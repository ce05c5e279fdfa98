"""The scaling law of short trainings: bits from size and tokens, with what is not known about it.

The form is that of Hoffmann et al. 2022 (section 3.3), with repeated tokens worth less (Muennighoff
et al. 2023) and large batches worth less (McCandlish et al. 2018, equation 2.11). Its constants are
those of our own trainings of minutes, as the published ones are of models a thousand times larger:
each text has constants of its own, of which `PRIOR` says how they vary. What a run measures, and
what earlier ones have shown, narrows them down (a Laplace approximation).
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from training.budget import REPEATS_DECAY, worth

Vector = npt.NDArray[np.float64]

# Of the score of two trainings that differ in their seeds alone, relative standard deviation; measured.
NOISE = 0.008
CRITICAL_BATCH_BYTES = 25_000.0  # a batch of so many wants twice the text; measured, see DECISIONS
NORMAL_90 = 1.645  # standard deviations to either side that hold 90 %
STEPS = 30  # of Gauss-Newton; it settles within ten


class Point(NamedTuple):
    """A training that has been seen: `text_bytes` are those read, all passes together, `unique` those there are.

    `error` is the relative standard error of `bits`.
    """

    parameters: float
    text_bytes: float
    unique: float
    bits: float
    error: float
    batch_bytes: float = 0.0


class Forecast(NamedTuple):
    """A score that is expected, and the interval that holds it in nine of ten cases."""

    bits: float
    low: float
    high: float


def log_bits(constants: Vector, point: Point) -> float:
    """log(E + B / worth(text)^beta + A / parameters^alpha), text in MB, parameters in millions.

    `constants` are log E, log B, beta, log A, alpha.
    """
    floor, text, beta, size, alpha = constants
    steps = 1 + point.batch_bytes / CRITICAL_BATCH_BYTES
    read = worth(point.text_bytes / steps, point.unique, REPEATS_DECAY) / 1e6
    terms = (floor, text - beta * np.log(read), size - alpha * np.log(point.parameters / 1e6))
    return float(np.logaddexp.reduce(terms))


def gradient(constants: Vector, point: Point) -> Vector:
    """float64 [constants]: how `log_bits` moves with each, by central differences."""
    shifts = 1e-4 * np.eye(len(constants))
    return np.array(
        [(log_bits(constants + d, point) - log_bits(constants - d, point)) / 2e-4 for d in shifts]
    )


class Law(NamedTuple):
    """Constants, as a mean and a covariance."""

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    def informed(self, points: Sequence[Point]) -> Self:
        """The law after these trainings were seen."""
        if not points:
            return self
        prior, precision = np.array(self.mean), np.linalg.inv(np.array(self.covariance))
        seen = np.log([point.bits for point in points])
        weights = 1 / np.array([point.error**2 + NOISE**2 for point in points])
        at = prior.copy()
        for _ in range(STEPS):
            slopes = np.stack([gradient(at, point) for point in points])
            residual = seen - np.array([log_bits(at, point) for point in points])
            curvature = precision + slopes.T @ (weights[:, None] * slopes)
            step = np.linalg.solve(curvature, slopes.T @ (weights * residual) - precision @ (at - prior))
            at = at + step * min(1.0, 2.0 / max(1e-9, float(np.abs(step).max())))
        return type(self)(
            tuple(map(float, at)), tuple(tuple(map(float, row)) for row in np.linalg.inv(curvature))
        )

    def bits(self, parameters: float, text_bytes: float, unique: float, batch_bytes: float = 0.0) -> float:
        """What is expected of a training."""
        point = Point(parameters, text_bytes, unique, 1.0, 0.0, batch_bytes)
        return float(np.exp(log_bits(np.array(self.mean), point)))

    def forecast(self, point: Point) -> Forecast:
        """What is expected of a training like `point`; its error is that of the score, beside the law's own."""
        at = np.array(self.mean)
        slopes = gradient(at, point)
        variance = float(slopes @ np.array(self.covariance) @ slopes) + NOISE**2 + point.error**2
        middle, half = float(log_bits(at, point)), NORMAL_90 * variance**0.5
        return Forecast(*(float(np.exp(middle + shift)) for shift in (0.0, -half, half)))

    def slope(self, parameters: float, text_bytes: float, unique: float) -> float:
        """How the score falls with more reading: d log bits / d log bytes, negative."""
        more = self.bits(parameters, 1.1 * text_bytes, unique)
        return float(np.log(more / self.bits(parameters, text_bytes, unique)) / np.log(1.1))


def independent(mean: Sequence[float], deviations: Sequence[float]) -> Law:
    """A law whose constants vary on their own."""
    return Law(tuple(mean), tuple(tuple(map(float, row)) for row in np.diag(np.square(deviations))))


# How the constants of a text vary from text to text: those of seven texts, by `python -m tests.benchmarks.law`.
CAUSAL = independent((-0.2, 0.05, 0.26, -4.2, 1.65), (0.6, 0.5, 0.1, 0.4, 0.4))
# Other objectives count other things: the same shape, and little known of where it lies.
MASKED = independent((-0.2, 0.3, 0.26, -4.2, 1.65), (0.8, 0.8, 0.12, 0.6, 0.5))
LABELS = independent((-0.7, -0.7, 0.26, -4.2, 1.65), (1.5, 1.5, 0.15, 1.0, 0.5))
PRIORS = {"causal": CAUSAL, "masked": MASKED, "classification": LABELS}
