"""The clock, the calibration, the plan: what the budget buys on this machine."""

import itertools
import json
import math
import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import prefect.runtime
from prefect import task
from pydantic import BaseModel, ConfigDict

from tasks import telemetry, tracking
from tasks.artifacts import InputError, Record, Tokens
from tasks.cluster import Compute, Pool, pool, side_by_side
from tasks.home import run_folder
from tasks.telemetry import Stage, stage
from training.blueprint import Blueprint, Learning
from training.budget import Wall, expected_loss_nats, parse_budget
from training.journal import read_journal
from training.model import Model, hidden_parameters
from training.objectives import Objective
from training.worker import Assignment

STARTED_VARIABLE = "SHOESTRING_STARTED"  # set by the command line: when the process began
EXIT_SECONDS = 3.0  # from the registered model to the end of the process; measured
REGISTER_SECONDS = 6.0  # logging, registering, scoring the champion apart; measured
EVALUATION_SHARE = 0.06  # of the budget, at most; a sample of the test split is scored if it takes longer
SLACK_SHARE = 0.01  # of the budget, for what no plan foresees
SAMPLES_SECONDS = 3.0  # completions and plots
RAY_TRAIN_SECONDS = 12.0  # from fit() to the first step, where no fold hides it
SMALL_SECONDS = 75.0  # of training time; with less, all of it goes to the final run
SEARCH_SHARE, FOLDS_SHARE = 0.22, 0.14  # of the time left to train; by eye
TRIALS_EACH = 3  # full-length trials for each worker
CALIBRATION_DEPTHS = (2, 4, 6)
CALIBRATION_SECONDS = 1.2  # each
DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
FORWARD_SHARE = 1 / 3  # of a training step's time that a forward pass takes
WINDOWS_OVERLAP = 2.0  # test tokens are passed twice, see training.metrics
BATCH_TOKENS, CONTEXT = 2048, 256  # good on a CPU for minutes; see DECISIONS
BEAT_SECONDS = 1.0


class Clock(Record):
    """When a run must be over."""

    kind: ClassVar[str] = "clock"
    stage: ClassVar[str] = "Start the clock"
    run_id: str
    run_name: str
    budget_seconds: float
    started: float  # Unix time; a resumed run's is set back by what it had used
    deadline: float

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()


class Choice(BaseModel):
    """One line of a plan: what was chosen, and why."""

    model_config = ConfigDict(frozen=True)
    what: str
    value: str
    reason: str


class Plan(Record):
    """How the time is divided, and the training that it is spent on."""

    kind: ClassVar[str] = "plan"
    stage: ClassVar[str] = "Plan the budget"
    clock: Clock
    blueprint: Blueprint
    compute: Compute
    workers: int
    search_seconds: float
    trial_seconds: float
    folds_seconds: float
    fold_seconds: float
    final_seconds: float
    evaluation_seconds: float  # at most, for the test split
    reserve_seconds: float  # kept for evaluation, registration and exit
    tokens_per_second: float  # expected of the final run
    choices: tuple[Choice, ...]

    @property
    def final_deadline(self) -> float:
        """When the final run must stop training."""
        return self.clock.deadline - self.reserve_seconds

    def rows(self) -> list[dict[str, Any]]:
        """The plan as a table with reasons."""
        return [choice.model_dump() for choice in self.choices]


def make_clock(run_id: str, run_name: str, budget: str, started: float) -> Clock:
    """The clock of a run: a new one counts from `started`, one that was interrupted goes on where it stood."""
    seconds = parse_budget(budget)
    path = run_folder(run_id) / "clock.json"
    if path.exists():
        started = time.time() - float(json.loads(path.read_text())["used_seconds"])
    return Clock(
        key=run_id[:8],
        run_id=run_id,
        run_name=run_name,
        budget_seconds=seconds,
        started=started,
        deadline=started + seconds,
    )


def keep_beating(clock: Clock) -> None:
    """Writes down every second how much of the budget is used, so that a killed run can go on with the rest."""
    folder = run_folder(clock.run_id)
    folder.mkdir(parents=True, exist_ok=True)

    def beat() -> None:
        while True:
            draft = folder / ".clock.json"
            state = {
                "used_seconds": time.time() - clock.started,
                "budget_seconds": clock.budget_seconds,
                "pid": os.getpid(),
            }
            draft.write_text(json.dumps(state))
            draft.replace(folder / "clock.json")
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat, name="clock", daemon=True).start()


def process_start() -> float:
    """When the command began, or where Prefect started this run, when the run did."""
    if STARTED_VARIABLE in os.environ:
        return float(os.environ[STARTED_VARIABLE])
    began: datetime | None = prefect.runtime.flow_run.scheduled_start_time
    return (
        time.time()
        if began is None
        else min(time.time(), max(began.astimezone(UTC).timestamp(), time.time() - 120))
    )


@task(name=Clock.stage, task_run_name="start the clock: {budget}")
def start_clock(budget: str, compute: Compute) -> Clock:
    """The deadline of this run; workers and MLflow warm up behind it while the data is prepared."""
    clock = make_clock(
        str(prefect.runtime.flow_run.id), str(prefect.runtime.flow_run.name), budget, process_start()
    )
    keep_beating(clock)
    threading.Thread(target=pool, args=(compute,), name="warm-up", daemon=True).start()
    threading.Thread(target=tracking.prepare, name="mlflow-warm-up", daemon=True).start()
    return clock


def measured_rate(workers: Pool, assignment: Assignment) -> float:
    """Tokens a second of one worker, while all of them train the same at once."""

    def one(number: int) -> float:
        clock = Wall(time.time() + CALIBRATION_SECONDS)
        mine = replace(assignment, folder=assignment.folder / f"worker-{number}", clock=clock)
        workers.carry_out(mine)
        rates = [
            e["tokens_per_second"]
            for e in read_journal(mine.folder / "journal.jsonl")
            if e["event"] == "step"
        ]
        settled = sorted(rates[len(rates) // 3 :])  # the first steps are slow
        return float(settled[len(settled) // 2])

    return min(side_by_side([partial(one, number) for number in range(workers.size)], workers.size))


def seconds_per_token(rates: dict[int, float], depth: int) -> float:
    """What a token costs at a depth: between measured depths linear in the weights, beyond them by the last slope."""
    points = sorted((hidden_parameters(d), 1 / rate) for d, rate in rates.items())
    size = hidden_parameters(depth)
    for (low, cheap), (high, dear) in itertools.pairwise(points):
        if size <= high or (high, dear) == points[-1]:
            return max(cheap * 0.2, cheap + (dear - cheap) * (size - low) / (high - low))
    return points[0][1] * size / points[0][0]


def best_depth(rates: dict[int, float], workers: int, seconds: float, unique_tokens: int) -> int:
    """The depth whose expected loss is lowest after `seconds` (Hoffmann et al. 2022 as the prior)."""

    def loss(depth: int) -> float:
        tokens = workers * seconds / seconds_per_token(rates, depth)
        return expected_loss_nats(hidden_parameters(depth), tokens, unique_tokens)

    return min(DEPTHS, key=loss)


def divide(left: float, reserve: float, workers: int, folds: int, search_share: float) -> dict[str, float]:
    """Seconds for search, folds and the final run; little time goes to the final run whole."""
    usable = left - reserve
    if usable < SMALL_SECONDS:
        return {
            "search": 0.0,
            "trial": 0.0,
            "folds": 0.0,
            "fold": 0.0,
            "final": max(1.0, usable - RAY_TRAIN_SECONDS),
        }
    search = usable * search_share
    folded = usable * FOLDS_SHARE if folds else 0.0
    rounds = math.ceil(folds / workers) if folds else 1
    return {
        "search": search,
        "trial": search / TRIALS_EACH,
        "folds": folded,
        "fold": folded / rounds,
        "final": usable - search - folded,
    }


def calibrate(base: Blueprint, tokens: Tokens, workers: Pool, folder: Path, shown: Stage) -> dict[int, float]:
    """Tokens a second of one worker, by depth; a resumed run keeps what it had measured."""
    path = folder / "rates.json"
    if path.exists():
        return {int(depth): rate for depth, rate in json.loads(path.read_text()).items()}
    workers.wait_ready()
    depths = CALIBRATION_DEPTHS if base.model.depth is None else (base.model.depth,)
    rates = {}
    for number, depth in enumerate(depths):
        assignment = Assignment(
            folder=folder / "calibration" / f"depth-{depth}",
            blueprint=at_depth(base, depth),
            shards=tokens.folder,
            clock=Wall(0.0),
            looks=(),
            device=workers.device,
        )
        rates[depth] = measured_rate(workers, assignment)
        shown.move((number + 1) / len(depths), f"depth {depth}: {rates[depth]:,.0f} tokens/s a worker")
    path.write_text(json.dumps(rates))
    return rates


def at_depth(blueprint: Blueprint, depth: int) -> Blueprint:
    """The blueprint with its depth settled."""
    return blueprint.model_copy(update={"model": blueprint.model.model_copy(update={"depth": depth})})


def decide(
    clock: Clock,
    tokens: Tokens,
    base: Blueprint,
    compute: Compute,
    workers: int,
    rates: dict[int, float],
    search_share: float,
) -> Plan:
    """The plan that measured rates lead to. Raises InputError where the budget is too small for the data."""
    fixed = SAMPLES_SECONDS + REGISTER_SECONDS + EXIT_SECONDS + SLACK_SHARE * clock.budget_seconds
    most = EVALUATION_SHARE * clock.budget_seconds
    folds = tokens.splits.folds
    asked = base.model.depth
    roughly = divide(clock.left(), fixed + 2 * most, workers, folds, search_share)["final"]
    depth = asked or best_depth(rates, workers, roughly, tokens.tokens["train"])
    rate = workers / seconds_per_token(rates, depth)
    scoring = tokens.tokens["test"] * WINDOWS_OVERLAP * FORWARD_SHARE / rate
    evaluation = min(most, 1.3 * scoring)
    reserve = fixed + 2 * evaluation  # the champion is scored again, too
    times = divide(clock.left(), reserve, workers, folds, search_share)
    if clock.left() - reserve < RAY_TRAIN_SECONDS + 2:
        used = clock.budget_seconds - clock.left()
        raise InputError(
            f"preparing and measuring took {used:.0f} s of the budget, and judging the model takes {reserve:.0f} s: "
            f"give at least {used + reserve + 2 * RAY_TRAIN_SECONDS:.0f}s"
        )
    blueprint = at_depth(base, depth)
    expected = rate * times["final"]
    measured = ", ".join(f"depth {d}: {r:,.0f}" for d, r in rates.items())
    epochs = expected / tokens.tokens["train"]
    choices = (
        Choice(
            what="workers",
            value=f"{workers}",
            reason="one for each core or GPU" if compute.workers is None else "user",
        ),
        Choice(
            what="measured tokens/s of a worker", value=measured, reason="trained on this machine just now"
        ),
        Choice(
            what="depth",
            value=f"{depth}",
            reason="user" if asked else "lowest expected loss for the time (Hoffmann et al. 2022)",
        ),
        Choice(what="vocabulary", value=f"{tokens.vocabulary:,}", reason="by rule, from text and budget"),
        Choice(
            what="tokens of the final run",
            value=f"{expected:,.0f}",
            reason=f"{epochs:.2f} passes over the train split",
        ),
        Choice(
            what="search",
            value=f"{times['search']:.0f} s",
            reason=f"trials of up to {times['trial']:.0f} s"
            if times["search"]
            else "too little time to learn from trials",
        ),
        Choice(
            what="cross-validation",
            value=f"{times['folds']:.0f} s",
            reason=f"{tokens.splits.folds} folds of {times['fold']:.0f} s"
            if times["folds"]
            else "too little time for folds, or none asked for",
        ),
        Choice(what="final run", value=f"{times['final']:.0f} s", reason="what is left"),
        Choice(
            what="evaluation, registration, exit",
            value=f"{reserve:.0f} s",
            reason=f"{tokens.tokens['test']:,} test tokens to score",
        ),
    )
    return Plan(
        key=clock.key,
        clock=clock,
        blueprint=blueprint,
        compute=compute,
        workers=workers,
        search_seconds=times["search"],
        trial_seconds=times["trial"],
        folds_seconds=times["folds"],
        fold_seconds=times["fold"],
        final_seconds=times["final"],
        evaluation_seconds=evaluation,
        reserve_seconds=reserve,
        tokens_per_second=rate,
        choices=choices,
    )


@task(name=Plan.stage, task_run_name="plan the budget")
def plan_budget(
    clock: Clock,
    tokens: Tokens,
    model: Model,
    learning: Learning,
    objective: Objective,
    compute: Compute,
    search_share: float,
    seed: int,
) -> Plan:
    """What to train, and for how long each stage; a resumed run divides what is left of its budget."""
    folder = run_folder(clock.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    with stage(Plan.stage) as shown:
        settled = {
            "batch_tokens": learning.batch_tokens or BATCH_TOKENS,
            "context": learning.context or CONTEXT,
        }
        base = Blueprint(
            model=model,
            objective=objective,
            learning=learning.model_copy(update=settled),
            vocabulary=tokens.vocabulary,
            seed=seed,
        )
        path = folder / "plan.json"
        if path.exists():
            base = Plan.model_validate_json(path.read_text()).blueprint
        workers = pool(compute)
        rates = calibrate(base, tokens, workers, folder, shown)
        plan = decide(clock, tokens, base, compute, workers.size, rates, search_share)
        telemetry.link_runs(tracking.start_parent(clock.run_id, clock.run_name))
        shown.result = (
            f"depth {plan.blueprint.model.depth}, about {plan.tokens_per_second:,.0f} tokens/s; "
            f"search {plan.search_seconds:.0f} s, folds {plan.folds_seconds:.0f} s, "
            f"final run {plan.final_seconds:.0f} s, judging {plan.reserve_seconds:.0f} s"
        )
        return plan
