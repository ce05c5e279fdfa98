"""The Optuna study of a search: its samplers, what a kill left of it, its rungs, and what it teaches."""

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict, Field

from tasks.artifacts import InputError
from tasks.home import run_folder
from training.config import Section

RUNGS = (1 / 9, 1 / 3, 1.0)  # shares of a trial, after which the best third goes on
ETA = 3  # one in so many goes on (Li et al. 2020, ASHA)
FIRST_AT_RANDOM = 6  # trials, before a sampler has enough to learn from
GOES_ON_FROM = "goes_on_from"  # the number of the trial whose folder holds the checkpoint
RESAMPLES, CONFIDENCE = 60, 0.9
FEWEST_FOR_IMPORTANCE = 8  # trials; of fewer, the intervals are the whole range


class Search(Section):
    """How settings are searched for."""

    share: float | None = Field(
        default=None,
        ge=0,
        le=0.8,
        description="Part of the training time spent on trials; 0 trains with the settings as they are. Empty: as"
        " much as pays. What is off (empty or 0), such as dropout, is not searched: set it, and it is.",
    )
    sampler: Literal["tpe", "gp", "random", "grid"] = Field(
        default="tpe",
        description="tpe and gp learn from earlier trials, gp better where few settings are turned; random is"
        " unbiased; grid tries all combinations of a few values of each.",
    )
    choices: dict[str, tuple[str | int | float | bool, ...]] = Field(
        default={},
        description="Settings to choose between, such as {learning.optimizer.kind: [muon, adamw]} or {model.depth:"
        " [2, 3, 4]}. A kind brings its own settings into the search.",
    )
    grid_points: int = Field(
        default=3, ge=2, le=20, description="Values of each setting in a grid; trials are their product."
    )
    second: Literal["none", "size", "latency"] = Field(
        default="none",
        description="A second thing to make small beside the score: weights, or the time of a forward pass. Trials"
        " then run to their end, and show what a little score buys; the best score still decides.",
    )
    pruning: bool = Field(
        default=True,
        description="Let only the best third of the trials go on after a ninth and a third of a trial.",
    )
    trials: int | None = Field(
        default=None, ge=1, le=10_000, description="At most this many. Empty: as many as the time allows."
    )


def sampler_of(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of this name; a grid's points are put in line, and need none."""
    if name == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,  # conditional settings are modelled with what they hang on
                constant_liar=True,
                n_startup_trials=FIRST_AT_RANDOM,
            )
    if name == "gp":
        return optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=FIRST_AT_RANDOM, warn_independent_sampling=False
        )
    return optuna.samplers.RandomSampler(seed=seed)


def open_study(run_id: str, sampler: str, seed: int, objectives: int = 1) -> optuna.Study:
    """The run's study; trials that a kill left running are put back with their settings and checkpoint."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = run_folder(run_id) / "study.journal"
    try:
        study = optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(path))),
            sampler=sampler_of(sampler, seed),
            directions=["minimize"] * objectives,
            load_if_exists=True,
        )
    except Exception as error:  # whatever a line that is none of Optuna's leads to
        if not path.exists():
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{path} is damaged ({why}): remove it, and the search begins anew") from None
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        left = trial.user_attrs | {GOES_ON_FROM: trial.user_attrs.get(GOES_ON_FROM, trial.number)}
        study.enqueue_trial(trial.params, user_attrs=left)
    return study


class Rungs:
    """Successive halving without waiting (ASHA): who is in the best third of a rung so far goes on to the next."""

    def __init__(self) -> None:
        self._scores: list[dict[int, float]] = [{} for _ in RUNGS]
        self._gone_on: list[set[int]] = [set() for _ in RUNGS]
        self.waiting: dict[int, Trial] = {}

    def pause(self, trial: Trial, rung: int, score: float) -> None:
        """A trial has reached a rung, and waits."""
        self._scores[rung][trial.number] = score
        self.waiting[trial.number] = trial

    def next(self) -> tuple[Trial, int] | None:
        """The trial that is to go on, and the rung that it stands on: the highest first."""
        for rung in reversed(range(len(RUNGS) - 1)):
            scores = self._scores[rung]
            best = sorted(scores, key=lambda number: scores[number])[: len(scores) // ETA]
            for number in best:
                if number not in self._gone_on[rung] and number in self.waiting:
                    self._gone_on[rung].add(number)
                    return self.waiting.pop(number), rung
        return None


def last_gain(scores: Sequence[float]) -> float:
    """What the last trial has won on average: the mean gain of the best score by one trial among these.

    Taking one of n away at random raises the best only if it was the best: (second - first) / n.
    """
    if len(scores) < 2:
        return float("inf")
    first, second = sorted(scores)[:2]
    return (second - first) / len(scores)


class Importance(BaseModel):
    """How much of the difference between trials hangs on a setting, from 0 to 1, with a 90 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    setting: str
    share: float
    low: float
    high: float


def importances(trials: Sequence[FrozenTrial], seed: int = 0) -> list[Importance]:
    """Of each setting that all trials have, the largest first; bootstrapped over trials.

    By PED-ANOVA (Watanabe et al. 2023), on the scores at the first rung, where all trials have been.
    """
    seen = [(trial, _first_score(trial)) for trial in trials]
    there = [(trial, score) for trial, score in seen if score is not None and trial.params]
    if len(there) < FEWEST_FOR_IMPORTANCE:
        return []
    value = _shares(there)
    dice = np.random.default_rng(seed)
    drawn = [
        _shares([there[number] for number in dice.integers(len(there), size=len(there))])
        for _ in range(RESAMPLES)
    ]
    tail = (1 - CONFIDENCE) / 2
    found = []
    for name, share in value.items():
        low, high = np.quantile([one.get(name, 0.0) for one in drawn], [tail, 1 - tail])
        found.append(
            Importance(setting=name, share=share, low=min(float(low), share), high=max(float(high), share))
        )
    return sorted(found, key=lambda one: -one.share)


def _first_score(trial: FrozenTrial) -> float | None:
    seen: dict[int, float] = trial.intermediate_values
    if seen:
        return seen[min(seen)]
    return float(trial.values[0]) if trial.values else None


def _shares(trials: Sequence[tuple[FrozenTrial, float]]) -> dict[str, float]:
    """Each setting's share of the variance; nothing where all scores are the same."""
    if len({score for _, score in trials}) < 2:
        return {}
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=score)
            for trial, score in trials
        ]
    )
    found: dict[str, float] = optuna.importance.get_param_importances(study)
    return found


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of the points no other beats in both numbers, in the order of the first."""
    order = sorted(range(len(points)), key=lambda number: points[number])
    lowest = itertools.accumulate((points[number][1] for number in order), min)
    before: float | None = None
    found = []
    for number, low in zip(order, lowest, strict=True):
        if before is None or low < before:
            found.append(number)
        before = low
    return found


def rows_of(found: Sequence[Importance]) -> list[dict[str, Any]]:
    """The importances as a table."""
    return [one.model_dump() for one in found]
