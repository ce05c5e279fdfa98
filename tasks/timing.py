"""How long stages take and how much memory: what the clock must leave room for."""

import argparse
import inspect
import os
import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

from tasks.artifacts import Tokens
from tasks.calibrate import Calibration
from tasks.clock import Clock
from tasks.division import Division
from tasks.evidence import Earlier
from tasks.settle import PASSES, STEP_PASSES
from training.model import hidden_parameters
from training.objectives import Objective

STEPS_SHARE = 0.97  # of a final run's time, that steps take; the rest are looks at validation, measured
# Completions and plots; MLflow; the exit. Measured where `slowness` is 1; where it is 1.9, all took 11 s.
SAMPLES_SECONDS, REGISTER_SECONDS, EXIT_SECONDS = 2.5, 1.0, 2.2
COMPILED_SECONDS = 0.0105  # argparse's 2,600 lines, by Python's compiler, where `slowness` is 1
SLOWEST = 4.0  # more is a stall
EVALUATION_SHARE = 0.06  # of the budget, at most; a sample of the test split is scored if it takes longer
SLACK_SHARE, LEAST_SLACK_SECONDS = 0.004, 0.8  # of the budget, for what no plan foresees
SURE_SHARE, EARLIER_SHARE = 0.35, 0.12  # relative half width of a 90 % interval: by rule, from earlier runs
RUNS_COUNTED = 3  # the newest; the slowest of them decides
STACK_GB = 1.3  # of servers, Ray and the command itself, beside the workers; measured
MEMORY_SHARE = 0.15  # relative half width of a 90 % interval


class StagePlan(BaseModel):
    """What a stage is expected to take: seconds and memory of all processes, with 90 % intervals."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    seconds: float
    low: float
    high: float
    memory_gb: float | None = None
    done: bool = False


class Judging(BaseModel):
    """From the end of the final run to the end of the command."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seconds: float
    low: float
    high: float
    scoring_seconds: float  # at most, for the test split
    reason: str

    def reserve(self, budget_seconds: float) -> float:
        """Seconds to keep free, so that the end comes on time."""
        return self.seconds + max(LEAST_SLACK_SECONDS, SLACK_SHARE * budget_seconds)


def judging(
    tokens: Tokens,
    objective: Objective,
    rate: float,
    budget_seconds: float,
    again: int,
    earlier: Sequence[Earlier],
) -> Judging:
    """What evaluation, registration and exit take, at `rate` tokens/s of training of all workers.

    Earlier runs on this machine and text say it best. As much is read `again` once where there is a champion, and
    twice where it was tested on other text, which both must then read; see `tasks.earlier_tests.EARLIER_SHARE`.
    """
    scoring = tokens.tokens["test"] * PASSES[objective.head] / STEP_PASSES / rate
    limit = min(EVALUATION_SHARE * budget_seconds, 1.5 * scoring + 1.0)
    expected = min(scoring, limit)
    known = [
        run.judging_seconds + expected * max(0, again - run.scored_again)
        for run in earlier
        if run.judging_seconds and run.same_machine
    ][:RUNS_COUNTED]
    if known:
        seconds, sure = max(known) + slowness() * EXIT_SECONDS, EARLIER_SHARE
        reason = f"the slowest of {len(known)} earlier runs, and the exit"
    else:
        fixed = slowness() * (SAMPLES_SECONDS + REGISTER_SECONDS + EXIT_SECONDS)
        seconds = expected * (1 + again) + fixed
        sure = SURE_SHARE
        reason = (
            f"{tokens.tokens['test']:,} test tokens to score"
            f"{', and the champion to score again' * (again > 0)}{', also on its own test' * (again > 1)}"
        )
    return Judging(
        seconds=seconds,
        low=seconds * (1 - sure),
        high=seconds * (1 + sure),
        scoring_seconds=limit,
        reason=reason,
    )


@lru_cache(maxsize=1)
def slowness() -> float:
    """How much longer than where our constants are from this machine takes for what Python itself does, 1 or more."""
    text = inspect.getsource(argparse)

    def once() -> float:
        began = time.perf_counter()
        compile(text, "argparse", "exec")
        return time.perf_counter() - began

    return min(max(1.0, min(once() for _ in range(5)) / COMPILED_SECONDS), SLOWEST)


def stages_of(
    clock: Clock,
    calibration: Calibration,
    parts: Division,
    judged: Judging,
    depth: int,
    trial_depth: int,
    workers: int,
) -> tuple[StagePlan, ...]:
    """Every stage's time and memory; trainings end by the clock, so they are sure but for a step."""
    base = STACK_GB + psutil.Process(os.getpid()).memory_info().rss / 1e9
    final = base + workers * worker_memory_gb(calibration.memory_gb, depth)
    trial = base + workers * worker_memory_gb(calibration.memory_gb, trial_depth)
    used = time.time() - clock.started
    trainings = (
        ("search", parts.search, trial, parts.search - parts.trial),
        ("cross-validation", parts.folds, final, parts.folds),
        ("final run", parts.final, final, parts.final),
    )
    return (
        StagePlan(stage="preparing and planning", seconds=used, low=used, high=used, done=True),
        *(
            StagePlan(stage=name, seconds=seconds, low=low, high=seconds + 1, memory_gb=memory)
            for name, seconds, memory, low in trainings
            if seconds
        ),
        StagePlan(
            stage="evaluation, registration, exit",
            seconds=judged.seconds,
            low=judged.low,
            high=judged.high,
            memory_gb=base,
        ),
    )


def worker_memory_gb(measured: dict[int, float], depth: int) -> float:
    """A worker's memory at a depth, by the line through what was measured against the weights."""
    if depth in measured or len(measured) < 2:
        return measured.get(depth) or max(measured.values(), default=0.0)
    sizes = [hidden_parameters(known) for known in measured]
    slope, base = np.polyfit(sizes, list(measured.values()), 1)
    return float(max(base + slope * hidden_parameters(depth), min(measured.values())))
