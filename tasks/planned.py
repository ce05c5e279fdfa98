"""The plan as stages hand it on: how the budget is divided, what is trained, and what should come of it."""

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from tasks.artifacts import Record, Tokens
from tasks.calibrate import Calibration
from tasks.clock import Clock
from tasks.cluster import Compute
from tasks.forecast import best_depth, point_of
from tasks.timing import STEPS_SHARE, Judging, StagePlan
from training.blueprint import Blueprint
from training.budget import TokenCount, Wall
from training.law import Forecast, Law, Point
from training.model import hidden_parameters

BEYOND_POWER = 0.9  # of the weights, that a token's cost goes with beyond what was measured; 1 is FLOPs alone
LATE_TRIAL = 1.3  # times its seconds, after which a trial ends whatever it has seen


class Plan(Record):
    """How the budget is divided, the training that it is spent on, and what should come of it."""

    kind: ClassVar[str] = "plan"
    stage: ClassVar[str] = "Plan the budget"
    clock: Clock
    tokens: Tokens
    blueprint: Blueprint
    compute: Compute
    workers: int
    calibration: Calibration
    reasons: dict[str, str]  # of what was settled or given, by name
    depths: tuple[int, ...]  # that may be chosen; one, where it was not open
    law: Law
    law_error: float  # relative, of what the law's scores are counted from
    tokens_per_second: float  # expected of the final run, inside its optimizer steps
    search_seconds: float
    trial_seconds: float
    trial_depth: int
    trial_tokens: int | None  # where tokens are counted instead of time
    folds_seconds: float
    fold_tokens: int | None
    final_seconds: float  # that the final run may take, whether or not its epochs are made before
    final_tokens: int | None
    known_settings: tuple[dict[str, Any], ...]  # that won earlier searches
    judging: Judging
    forecasts: dict[str, Forecast]  # of the test score: with this budget, twice and four times as much
    basis: str  # of the forecast
    stages: tuple[StagePlan, ...]

    @property
    def final_deadline(self) -> float | None:
        """When the final run must stop training; None where no clock is kept."""
        return None if self.final_tokens else self.clock.deadline - self.reserve_seconds

    @property
    def reserve_seconds(self) -> float:
        """Kept for evaluation, registration and exit."""
        return self.judging.reserve(self.clock.like_seconds)

    @property
    def evaluation_seconds(self) -> float | None:
        """At most, for the test split; None for all of it, whatever the time."""
        return None if self.final_tokens else self.judging.scoring_seconds

    @property
    def search_trials(self) -> float:
        """Whole trials that the search has room for, one after the other; of all workers, where tokens are counted."""
        trials = self.search_seconds / max(1e-9, self.trial_seconds)
        return trials * self.workers if self.trial_tokens else trials

    @property
    def final_seen(self) -> float:
        """Tokens that the final run is expected to train on."""
        return self.final_tokens or self.within_epochs(
            self.tokens_per_second * STEPS_SHARE * self.final_seconds
        )

    @property
    def most_tokens(self) -> int | None:
        """Tokens after which any training has made its epochs; None where there is no such bound, as clocks have it."""
        most = self.blueprint.learning.most_tokens(self.tokens.tokens["train"])
        return int(most) if most < math.inf else None

    def within_epochs(self, tokens: float) -> float:
        """So many tokens, or all that the epochs allow."""
        return min(tokens, self.most_tokens or math.inf)

    @property
    def final_takes(self) -> float:
        """Seconds that the final run is expected to take."""
        return self.final_seen / self.tokens_per_second / STEPS_SHARE

    @property
    def depth_is_open(self) -> bool:
        """Whether the plan may choose the size."""
        return len(self.depths) > 1

    def depths_nearby(self) -> tuple[int, ...]:
        """The trials' depth and its neighbours."""
        at = self.depths.index(self.trial_depth)
        return self.depths[max(0, at - 1) : at + 2]

    def trial_clock(self, depth: int, done: float = 0.0, alike: bool = True) -> Wall | TokenCount:
        """The clock of a trial of a depth that starts now, or goes on after a share of it is done.

        Trials whose steps cost `alike` end after the tokens that are foreseen for their time, unless they
        take much longer: settings are compared, not how busy the machine was. Others have equal times.
        """
        if self.trial_tokens:
            return TokenCount(self.trial_tokens)
        seconds = (1 - done) * self.trial_seconds
        if not alike:
            return Wall(time.time() + seconds, self.most_tokens)
        final = self.blueprint.model.settled_depth() or self.trial_depth
        rate = self.tokens_per_second * self._cost(final) / self._cost(depth)
        tokens = self.within_epochs(self.trial_seconds * STEPS_SHARE * rate / self.workers)
        return Wall(time.time() + LATE_TRIAL * seconds, int(tokens))

    def final_clock(self) -> Wall | TokenCount:
        """The clock of the final run."""
        if self.final_tokens:
            return TokenCount(self.final_tokens)
        return Wall(self.final_deadline or 0.0, self.most_tokens)

    def point(self, depth: int, seen: float, validation_bits: float) -> Point:
        """A trial's score as the law counts it: as the probes' test scores are to their validation's."""
        probe = self.calibration.probe
        bits = validation_bits * probe.test_bits / probe.validation_bits
        return point_of(self.tokens, self.batch_tokens, depth, seen, bits)

    @property
    def batch_tokens(self) -> int:
        return self.blueprint.settled()[1]

    def depth_after(self, points: Sequence[Point]) -> int:
        """The best size for the final run, once trials of several sizes were seen."""
        depth = self.blueprint.model.settled_depth()
        if not self.depth_is_open or len(points) < 2 or depth is None:
            return depth or self.trial_depth
        seen = {
            other: self.final_tokens
            or self.within_epochs(self.final_seconds * STEPS_SHARE / self._cost(other))
            for other in self.depths
        }
        return best_depth(self.law.informed(points), self.tokens, self.batch_tokens, seen)

    def _cost(self, depth: int) -> float:
        return seconds_per_token(self.calibration.rates, depth)

    def worth_of_a_trial(self) -> float:
        """What the machine's time for a trial would win in the final run, relative."""
        depth = self.blueprint.model.settled_depth() or self.trial_depth
        point = point_of(self.tokens, self.batch_tokens, depth, self.final_seen)
        return -self.law.slope(point) * self.trial_seconds / self.workers / self.final_seconds

    def rows(self) -> list[dict[str, Any]]:
        """Each choice with its value and its reason, the stages, and what should come of it all."""
        from tasks.plan_table import rows_of  # which reads plans

        return rows_of(self)


def seconds_per_token(rates: dict[int, float], depth: int) -> float:
    """What a token costs at a depth: between measured depths linear in the weights, beyond them at least in proportion.

    A larger model never costs less than a smaller one, whatever was measured on a busy machine.
    """
    measured = sorted((hidden_parameters(d), 1 / rate) for d, rate in rates.items())
    sizes = [size for size, _ in measured]
    costs = list(itertools.accumulate((cost for _, cost in measured), max))
    size = hidden_parameters(depth)
    if size < sizes[0]:
        return costs[0] * max(0.2, size / sizes[0])
    for (low, cheap), (high, dear) in itertools.pairwise(zip(sizes, costs, strict=True)):
        if size <= high:
            return cheap + (dear - cheap) * (size - low) / (high - low)
    return float(costs[-1] * (size / sizes[-1]) ** BEYOND_POWER)
