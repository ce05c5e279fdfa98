"""Cross-validation: how the chosen recipe does on text that it did not train on, k times over.

Near-duplicates share a fold. What a split that ignores them would have said is measured by one more
training, and said beside.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from prefect import task
from pydantic import BaseModel, ConfigDict

from tasks.artifacts import Folds, Splits, Tokens
from tasks.children import log_child
from tasks.fold_scores import NAIVE, compare, describe, held_out_ratio, summarise
from tasks.home import run_folder
from tasks.outbox import Status
from tasks.planned import Plan
from tasks.settle import PASSES, STEP_PASSES, scored_tokens, uncompiled
from tasks.sides import Validation
from tasks.split import fold_trainings
from tasks.store import once_a_run
from tasks.telemetry import Stage, log, stage
from tasks.tracking import KIND_TAG
from tasks.workers import side_by_side, workers_of
from training.blueprint import Blueprint
from training.budget import TokenCount, Wall
from training.data import Shards
from training.desk import TooLate, WorkerDied
from training.journal import read_journal
from training.metrics import SAFETY
from training.objectives import Objective
from training.units import bits
from training.worker import Assignment

HELD_OUT_TOKENS, LEAST_HELD_OUT_TOKENS = 60_000, 2_000  # scored in each fold
# Of a fold's time: to train, and to score; the rest is for what takes longer than it should.
TRAINING_SHARE, SCORING_SHARE = 0.75, 0.2
LEAST_SHARE = 0.5  # of the time to train; a fold that has less says little of the others' recipe
Name = int | Literal["naive"]


class Fold(BaseModel):
    """What came of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bits: float
    documents: int  # scored
    tokens: int  # trained on


@task(
    name="Fold",
    task_run_name="fold-{fold}",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=once_a_run,
)
def train_fold(
    plan: Plan,
    tokens: Tokens,
    fold: Name,
    blueprint: Blueprint,
    clock: Wall | TokenCount,
    seconds: float,
    end: float,
) -> Fold:
    """Trains without one fold until the clock's deadline, and scores documents of that fold in time for `end`.

    Where tokens are counted, there is no time that it could miss. Raises TooLate where it began after
    LEAST_SHARE of `seconds`, or scored nothing in time.
    """
    deadline = clock.deadline if isinstance(clock, Wall) else math.inf
    folder = run_folder(plan.clock.run_id) / "folds" / f"{fold}"
    assignment = Assignment(
        folder=folder,
        blueprint=blueprint,
        shards=tokens.folder,
        clock=clock,
        without_fold=0 if fold == NAIVE else fold,
        naive=fold == NAIVE,
        looks=(),
        held_out_tokens=tokens_to_score(plan, blueprint.objective, seconds),
        scored_by=deadline + SCORING_SHARE / TRAINING_SHARE * seconds if deadline < math.inf else None,
        peak_flops=plan.calibration.peak_flops,
        device=plan.compute.device_type,
    )
    outcome = workers_of(plan.compute).carry_out(assignment, until=end)
    first = next((e["time"] for e in read_journal(folder / "journal.jsonl") if e["event"] == "step"), 0.0)
    if first > deadline - LEAST_SHARE * seconds:
        raise TooLate("it trained for less than half of its time")
    if not outcome.documents:
        raise TooLate("it had no time left to score")
    score = bits(outcome.nats, outcome.weight)
    tell(plan, fold, score, outcome.documents, "FINISHED")
    return Fold(bits=score, documents=outcome.documents, tokens=outcome.summary.tokens)


def tokens_to_score(plan: Plan, objective: Objective, seconds: float) -> int:
    """As many held-out tokens as a fold that trains for `seconds` should have time to score.

    Less of each document says more than fewer documents do, and all folds must read as far.
    """
    rate = plan.tokens_per_second / plan.workers * STEP_PASSES / PASSES[objective.head]
    in_time = SAFETY * rate * SCORING_SHARE / TRAINING_SHARE * seconds
    return max(LEAST_HELD_OUT_TOKENS, min(scored_tokens(HELD_OUT_TOKENS, objective), int(in_time)))


def tell(plan: Plan, fold: Name, score: float | None, documents: int, status: Status) -> None:
    """Has MLflow hear of a fold."""
    journal = run_folder(plan.clock.run_id) / "folds" / f"{fold}" / "journal.jsonl"
    tags = {KIND_TAG: "fold", "documents": f"{documents}"}
    log_child(
        plan.clock,
        f"fold-{fold}",
        tags,
        {"fold": fold},
        journal,
        score,
        status,
        plan.blueprint.objective.unit,
    )


@dataclass
class Folding:
    """The trainings of a cross-validation: all as long, and over by `end`, done or not."""

    blueprint: Blueprint
    plan: Plan
    tokens: Tokens
    names: Sequence[Name]
    end: float = field(init=False)
    each: float = field(init=False)  # seconds of a fold, of which it trains TRAINING_SHARE
    done: dict[Name, Fold] = field(default_factory=dict)
    problems: dict[Name, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rounds = math.ceil(len(self.names) / workers_of(self.plan.compute).size)
        self.each = self.plan.folds_seconds / rounds
        self.end = math.inf if self.plan.fold_tokens else time.time() + self.plan.folds_seconds

    @property
    def seconds(self) -> float:
        """That each one trains."""
        return TRAINING_SHARE * self.each

    @property
    def folds(self) -> list[int]:
        """Those that have a score."""
        return sorted(name for name in self.done if isinstance(name, int))

    def run(self, shown: Stage) -> None:
        """Trains all."""
        workers = workers_of(self.plan.compute)
        for number, name in enumerate(
            side_by_side([partial(self.one, name) for name in self.names], workers.size), start=1
        ):
            said = self.problems.get(name) or f"{self.done[name].bits:.3f} {self.blueprint.objective.unit}"
            shown.move(number / len(self.names), f"fold {name}: {said}")

    def one(self, name: Name) -> Name:
        """Trains one, with dice of its own; what is late or diverges is left out, with the reason."""
        tokens = [fold.tokens for fold in self.done.values()]
        # Alone on the machine it would be faster, and learn more, than the folds it is compared with.
        most = round(np.mean(tokens)) if name == NAIVE and tokens else self.plan.most_tokens
        latest = min(time.time() + self.seconds, self.end - (1 - TRAINING_SHARE) * self.each)
        counted = self.plan.fold_tokens
        clock = TokenCount(most or counted) if counted else Wall(latest, tokens=most)
        dice = len(self.names) if name == NAIVE else name + 1
        blueprint = uncompiled(self.blueprint)
        blueprint = blueprint.model_copy(update={"seed": blueprint.seed + dice})
        try:
            if time.time() > latest - LEAST_SHARE * self.seconds:
                raise TooLate("the time was over before it began")
            self.done[name] = train_fold(
                self.plan, self.tokens, name, blueprint, clock, self.seconds, self.end
            )
        except (TooLate, FloatingPointError, WorkerDied) as problem:
            late, diverged = isinstance(problem, TooLate), isinstance(problem, FloatingPointError)
            self.problems[name] = str(problem) if late else "it diverged" if diverged else "its worker died"
            log.warning("fold %s has no score: %s", name, problem)
            tell(self.plan, name, None, 0, "KILLED" if late else "FAILED")
        return name


def leak(folding: Folding, splits: Splits, folder: Path) -> dict[str, Any]:
    """What near-duplicates do to a split that ignores them, in numbers where there are enough of them."""
    of = f"{splits.repeated:,} of {splits.documents['train']:,} train documents have near-duplicates there"
    if NAIVE not in folding.names:
        return {"near_duplicates": f"{of}: too few to flatter a split that ignores them"}
    found = compare(folder, folding.folds) if NAIVE in folding.done and folding.folds else None
    if found is None or not found[-1]:
        why = folding.problems.get(NAIVE, "no fold scored what it scored")
        return {
            "near_duplicates": f"{of}; what a split that ignores them would have said is not known: {why}"
        }
    naive, instead_of, documents = found
    unit = folding.blueprint.objective.unit
    said = (
        f"a split that ignores near-duplicates would have said {naive:.3f} instead of {instead_of:.3f} {unit}"
        f" of the same {documents:,} documents; {of}"
    )
    return {"near_duplicates": said, "naive": naive, "instead_of": instead_of}


def report(folding: Folding, asked: int, folder: Path) -> Folds:
    """What all trainings together say."""
    plan, tokens, blueprint = folding.plan, folding.tokens, folding.blueprint
    done = folding.folds
    documents = sum(folding.done[name].documents for name in done)
    counted = f"{len(done)} of {asked} folds of {folding.seconds:.0f} s each"
    scored = f"{documents:,} of {tokens.splits.documents['train']:,} documents scored"
    left_out = [f"fold {name}: {why}" for name, why in sorted(folding.problems.items(), key=str)]
    by_documents = blueprint.objective.head == "classification"
    return summarise(
        [folding.done[name].bits for name in done],
        held_out_ratio(Shards(tokens.folder), done, by_documents),
        f"documents and trainings of {folding.seconds:.0f} s on one worker"
        f" (the final run: {plan.final_takes:.0f} s on {plan.workers})",
        key=plan.key,
        seconds_each=folding.seconds,
        reason="; ".join([f"{counted}, {scored}", *left_out]),
        **leak(folding, tokens.splits, folder),
    )


@task(
    name=Folds.stage,
    task_run_name="cross-validate",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=once_a_run,
)
def cross_validate(blueprint: Blueprint, plan: Plan, tokens: Tokens, validation: Validation) -> Folds:
    """Scores of the recipe on each fold."""
    with stage(Folds.stage) as shown:
        if plan.folds_seconds == 0 or not validation.folds:
            shown.result = plan.reasons["cross-validation"]
            return summarise([], 0.0, "", key=plan.key, seconds_each=0.0, reason=shown.result)
        names: list[Name] = [*range(validation.folds)]
        if fold_trainings(tokens.splits) > validation.folds:
            names.append(NAIVE)
        folding = Folding(blueprint, plan, tokens, names)
        folding.run(shown)
        folds = report(folding, validation.folds, run_folder(plan.clock.run_id) / "folds")
        shown.result = describe(folds, blueprint.objective.unit)
        return folds
