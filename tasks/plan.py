"""The plan: what the budget buys on this machine, for this data."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from prefect import task

from tasks import outbox, telemetry
from tasks.artifacts import InputError, Record, Tokens
from tasks.calibrate import Calibration, at_depth, calibrate
from tasks.clock import Clock
from tasks.cluster import Compute, pool
from tasks.home import run_folder
from tasks.memory import depths_that_fit, memory_bytes
from tasks.outbox import Courier, Letter
from tasks.settle import PASSES, compile_or_not, settle
from tasks.telemetry import stage
from training.blueprint import Blueprint, Learning
from training.budget import expected_loss_nats
from training.model import Model, hidden_parameters
from training.objectives import Objective

EXIT_SECONDS = 3.0  # from the registered model to the end of the process; measured
REGISTER_SECONDS = 6.0  # logging, registering, scoring the champion apart; measured
EVALUATION_SHARE = 0.06  # of the budget, at most; a sample of the test split is scored if it takes longer
SLACK_SHARE = 0.01  # of the budget, for what no plan foresees
SAMPLES_SECONDS = 3.0  # completions and plots
RAY_TRAIN_SECONDS = 12.0  # from fit() to the first step, where no fold hides it
SMALL_SECONDS = 75.0  # of training time; with less, all of it goes to the final run
SEARCH_SHARE, FOLDS_SHARE = 0.22, 0.14  # of the time left to train; by eye
TRIALS_EACH = 3  # full-length trials for each worker
DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
FORWARD_SHARE = 1 / 3  # of a training step's time that a forward pass takes


class Plan(Record):
    """How the time is divided, and the training that it is spent on."""

    kind: ClassVar[str] = "plan"
    stage: ClassVar[str] = "Plan the budget"
    clock: Clock
    tokens: Tokens
    blueprint: Blueprint
    compute: Compute
    workers: int
    calibration: Calibration
    reasons: dict[str, str]  # of what the plan settled in model and learning, by field
    tokens_per_second: float  # expected of the final run
    search_seconds: float
    trial_seconds: float
    folds_seconds: float
    fold_seconds: float
    final_seconds: float
    evaluation_seconds: float  # at most, for the test split
    reserve_seconds: float  # kept for evaluation, registration and exit

    @property
    def final_deadline(self) -> float:
        """When the final run must stop training."""
        return self.clock.deadline - self.reserve_seconds

    def rows(self) -> list[dict[str, Any]]:
        """Each choice with its value and its reason."""
        expected = self.tokens_per_second * self.final_seconds
        passes = expected / self.tokens.tokens["train"]
        rates = ", ".join(f"depth {depth}: {rate:,.0f}" for depth, rate in self.calibration.rates.items())
        peak = self.calibration.peak_flops
        trials = f"trials of up to {self.trial_seconds:.0f} s"
        folds = f"{self.tokens.splits.folds} folds of {self.fold_seconds:.0f} s"
        none = "too little time, or not wanted"
        by_rule = (
            "the checkpoint's"
            if self.blueprint.model.kind == "pretrained"
            else "by rule, from text and budget"
        )
        settled = self.blueprint.learning.model_dump() | {"depth": self.blueprint.model.settled_depth()}
        lines = (
            ("workers", self.workers, "user" if self.compute.workers else "one for each core or GPU"),
            ("measured tokens/s of a worker", rates, "trained on this machine just now"),
            ("peak of a worker", f"{(peak or 0) / 1e9:,.0f} GFLOP/s", "matrix products, measured just now"),
            *((name, settled[name], reason) for name, reason in self.reasons.items()),
            ("vocabulary", f"{self.tokens.vocabulary:,}", by_rule),
            ("tokens of the final run", f"{expected:,.0f}", f"{passes:.2f} passes over the train split"),
            ("search", f"{self.search_seconds:.0f} s", trials if self.search_seconds else none),
            ("cross-validation", f"{self.folds_seconds:.0f} s", folds if self.folds_seconds else none),
            ("final run", f"{self.final_seconds:.0f} s", "what is left"),
            (
                "evaluation, registration, exit",
                f"{self.reserve_seconds:.0f} s",
                f"{self.tokens.tokens['test']:,} test tokens to score, twice where there is a champion",
            ),
        )
        return [{"what": what, "value": str(value), "reason": reason} for what, value, reason in lines]


def seconds_per_token(rates: dict[int, float], depth: int) -> float:
    """What a token costs at a depth: between measured depths linear in the weights, beyond them by the last slope."""
    points = sorted((hidden_parameters(d), 1 / rate) for d, rate in rates.items())
    size = hidden_parameters(depth)
    for (low, cheap), (high, dear) in itertools.pairwise(points):
        if size <= high or (high, dear) == points[-1]:
            return max(cheap * 0.2, cheap + (dear - cheap) * (size - low) / (high - low))
    return points[0][1] * size / points[0][0]


def best_depth(
    rates: dict[int, float],
    workers: int,
    seconds: float,
    unique_tokens: int,
    depths: Sequence[int] = DEPTHS,
) -> int:
    """The depth whose expected loss is lowest after `seconds` (Hoffmann et al. 2022 as the prior)."""

    def loss(depth: int) -> float:
        tokens = workers * seconds / seconds_per_token(rates, depth)
        return expected_loss_nats(hidden_parameters(depth), tokens, unique_tokens)

    return min(depths, key=loss)


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


def decide(
    clock: Clock,
    tokens: Tokens,
    base: Blueprint,
    compute: Compute,
    workers: int,
    calibration: Calibration,
    search_share: float,
    depths: Sequence[int] = DEPTHS,
    reasons: dict[str, str] | None = None,
) -> Plan:
    """The plan that the calibration leads to; `depths` are those that fit into memory.

    Raises InputError where the budget is too small for the data.
    """
    fixed = SAMPLES_SECONDS + REGISTER_SECONDS + EXIT_SECONDS + SLACK_SHARE * clock.budget_seconds
    most = EVALUATION_SHARE * clock.budget_seconds
    folds, rates, asked = tokens.splits.folds, calibration.rates, base.model.settled_depth()
    roughly = divide(clock.left(), fixed + 2 * most, workers, folds, search_share)["final"]
    depth = asked or best_depth(rates, workers, roughly, tokens.tokens["train"], depths)
    rate = workers / seconds_per_token(rates, depth)
    scoring = tokens.tokens["test"] * PASSES[base.objective.head] * FORWARD_SHARE / rate
    evaluation = min(most, 1.3 * scoring)
    reserve = fixed + 2 * evaluation  # the champion is scored again, too
    times = divide(clock.left(), reserve, workers, folds, search_share)
    if clock.left() - reserve < RAY_TRAIN_SECONDS + 2:
        used = clock.budget_seconds - clock.left()
        raise InputError(
            f"preparing and measuring took {used:.0f} s of the budget, and judging the model takes {reserve:.0f} s: "
            f"give at least {used + reserve + 2 * RAY_TRAIN_SECONDS:.0f}s"
        )
    compiled, why = compile_or_not(base.learning.compile, compute.on_gpu(), times["final"])
    learning = base.learning.model_copy(update={"compile": compiled, "attention": calibration.attention})
    law = "lowest expected loss for the time (Hoffmann et al. 2022)"
    given = "the checkpoint's" if base.model.kind == "pretrained" else "user"
    return Plan(
        key=clock.key,
        clock=clock,
        tokens=tokens,
        blueprint=at_depth(base, depth).model_copy(update={"learning": learning}),
        compute=compute,
        workers=workers,
        calibration=calibration,
        reasons={
            "depth": given if asked else law,
            "attention": calibration.attention_reason,
            "compile": why,
            **(reasons or {}),
        },
        tokens_per_second=rate,
        search_seconds=times["search"],
        trial_seconds=times["trial"],
        folds_seconds=times["folds"],
        fold_seconds=times["fold"],
        final_seconds=times["final"],
        evaluation_seconds=evaluation,
        reserve_seconds=reserve,
    )


def announce(clock: Clock) -> None:
    """Has MLflow hear of the run, and links to its page there unless MLflow is away."""
    outbox.post(
        Letter(
            run_id=clock.run_id,
            run_name=clock.run_name,
            journal="final/journal.jsonl",
            started=clock.started,
        )
    )
    place = Courier.of(clock.run_id).place()
    if place is None:
        telemetry.log.warning("MLflow is away; what it should hear waits in the run's folder")
    else:
        telemetry.link_runs(*place)


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
    """What to train, and for how long each stage; a resumed run divides what is left of its budget.

    Raises InputError where the budget is too small for the data, or the memory for the model.
    """
    folder = run_folder(clock.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    with stage(Plan.stage) as shown:
        path = folder / "plan.json"
        if (folder / "trained.json").exists():  # only judging and registering are left, whatever the time
            announce(clock)
            shown.result = "nothing is left to train"
            return Plan.model_validate_json(path.read_text())
        settled, reasons = settle(learning, objective, model, tokens)
        base = Blueprint(
            model=model,
            objective=objective,
            learning=settled,
            vocabulary=tokens.vocabulary,
            start_token=tokens.start_token,
            mask_token=tokens.mask_token,
            labels=tokens.labels,
            data=tokens.key,
            seed=seed,
        )
        workers = pool(compute)
        depths = depths_that_fit(base, DEPTHS, workers.device, memory_bytes(compute, workers.size))
        calibration = calibrate(base, tokens, workers, folder, clock.budget_seconds, shown)
        if path.exists():  # a resumed run's checkpoints are of the blueprint that it had
            before = Plan.model_validate_json(path.read_text())
            base, reasons = before.blueprint, before.reasons
        plan = decide(clock, tokens, base, compute, workers.size, calibration, search_share, depths, reasons)
        announce(clock)
        shown.result = (
            f"depth {plan.blueprint.model.settled_depth()}, about {plan.tokens_per_second:,.0f} tokens/s; "
            f"search {plan.search_seconds:.0f} s, folds {plan.folds_seconds:.0f} s, "
            f"final run {plan.final_seconds:.0f} s, judging {plan.reserve_seconds:.0f} s"
        )
        return plan
