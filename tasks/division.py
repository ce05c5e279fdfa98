"""How a budget is divided among search, folds and the final run: each stage gets what it is worth.

All in seconds; where a budget counts tokens or FLOPs, in the seconds that they are expected to take.
"""

import math
from dataclasses import dataclass

LEAST_FOLD_SECONDS = 15.0  # by eye: one of 8 s ended at 2.49 bits per byte where 207 s of the same gave 1.44
FOLDS_SHARE = 0.09  # of the time left to train; by eye
TRIAL_SHARE, LEAST_TRIAL_SECONDS = 1 / 12, 12.0  # of the time left to train; shorter ones rank settings badly
PRUNING_SAVES = 0.45  # of the trials' time, that is spent with pruning; see tests/benchmarks/README.md
GAIN, GAIN_TRIALS = 0.015, 12.0  # most that a search won over the defaults here, and the trials to half of it
SEARCH_SHARES = (0.0, 0.03, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3)
WORTH_IT = 0.001  # relative score; less is not worth a word


@dataclass(frozen=True)
class Division:
    """Seconds for each stage, and why."""

    search: float
    trial: float
    folds: float
    fold: float
    final: float
    search_reason: str
    folds_reason: str


def divide(
    usable: float,
    workers: int,
    folds: int,
    search_share: float | None,
    pruning: bool,
    slope: float,
    earlier_gains: tuple[float, ...] = (),
) -> Division:
    """Divides the seconds that are left to train.

    `slope` is how the score falls with time (d log score / d log seconds, negative), `search_share`
    the user's, or None for what pays; `earlier_gains` are what earlier searches of this kind won.
    """
    fold_time, folds_reason = share_of_folds(usable, workers, folds)
    trial = max(LEAST_TRIAL_SECONDS, TRIAL_SHARE * usable)
    each = trial * (PRUNING_SAVES if pruning else 1.0) / workers  # seconds of the machine for a trial
    gain = expected_gain(earlier_gains)

    def net(share: float) -> float:
        trials = share * usable / each
        return float(gain * trials / (trials + GAIN_TRIALS) - ((1 - share) ** slope - 1))

    if search_share is None:
        share = max(SEARCH_SHARES, key=net)
        if net(share) < WORTH_IT:
            share = 0.0
    else:
        share = search_share
    asked = min(share * usable, usable - fold_time)
    search = asked if asked >= trial else 0.0
    trials = search / each
    if asked and not search:
        reason = f"{asked:.0f} s would not hold one trial of {trial:.0f} s: the defaults stay"
    elif search_share is not None:
        reason = "user"
    elif share:
        won, cost = gain * trials / (trials + GAIN_TRIALS), (1 - share) ** slope - 1
        reason = f"about {trials:.0f} trials should win {won:.1%}, and cost {cost:.1%}"
    else:
        few = max(SEARCH_SHARES[1:], key=net)
        reason = f"the best search would win {net(few):+.1%} after what its time costs; the defaults stay"
    rounds = math.ceil(folds / workers) if folds else 1
    return Division(
        search=search,
        trial=trial if search else 0.0,
        folds=fold_time,
        fold=fold_time / rounds,
        final=max(1.0, usable - search - fold_time),
        search_reason=reason,
        folds_reason=folds_reason,
    )


def share_of_folds(usable: float, workers: int, folds: int) -> tuple[float, str]:
    """Seconds for cross-validation, none where its trainings would be too short, and why."""
    if not folds:
        return 0.0, "none asked for: hold-out only"
    rounds = math.ceil(folds / workers)
    share = FOLDS_SHARE * usable
    if share / rounds < LEAST_FOLD_SECONDS:
        return 0.0, (
            f"plain hold-out: {folds} folds would have {share / rounds:.0f} s each,"
            f" and less than {LEAST_FOLD_SECONDS:.0f} s says nothing"
        )
    return share, f"{FOLDS_SHARE:.0%} of the time left to train, {rounds} rounds of {share / rounds:.0f} s"


def expected_gain(earlier: tuple[float, ...]) -> float:
    """What a thorough search wins, relative: our own measurement counts as two earlier ones."""
    return (2 * GAIN + sum(earlier)) / (2 + len(earlier))
