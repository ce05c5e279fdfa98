"""Cross-validation: how the chosen recipe does on text that it did not train on, k times over."""

import math
import time
from functools import partial

import numpy as np
from prefect import task
from scipy import stats

from tasks.artifacts import Folds, Tokens, once_a_run
from tasks.children import log_child
from tasks.cluster import pool, release_pools, side_by_side
from tasks.home import run_folder
from tasks.planned import Plan
from tasks.settle import scored_tokens, uncompiled
from tasks.split import Validation
from tasks.telemetry import stage
from tasks.train import FinalRun
from training.blueprint import Blueprint
from training.budget import Wall
from training.metrics import bits
from training.worker import Assignment

CONFIDENCE = 0.9
HELD_OUT_TOKENS = 60_000  # scored in each fold, the first tokens of every document
SCORING_SHARE = 0.25  # of a fold's time, kept for scoring


@task(
    name="Fold",
    task_run_name="fold-{fold}",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=once_a_run,
)
def train_fold(plan: Plan, tokens: Tokens, fold: int, blueprint: Blueprint, deadline: float) -> float:
    """Trains without one fold and scores documents of that fold; bits, per byte or label."""
    folder = run_folder(plan.clock.run_id) / "folds" / f"{fold}"
    assignment = Assignment(
        folder=folder,
        blueprint=uncompiled(blueprint),
        shards=tokens.folder,
        clock=Wall(deadline),
        without_fold=fold,
        looks=(),
        held_out_tokens=scored_tokens(HELD_OUT_TOKENS, blueprint.objective),
        peak_flops=plan.calibration.peak_flops,
        device="cuda" if plan.compute.on_gpu() else "cpu",
    )
    outcome = pool(plan.compute).carry_out(assignment)
    score = bits(outcome.nats, outcome.weight)
    tags = {"kind": "fold", "documents": str(outcome.documents)}
    log_child(plan.clock, f"fold-{fold}", tags, {"fold": fold}, folder / "journal.jsonl", score, "FINISHED")
    return score


def summarise(scores: list[float], seconds_each: float, reason: str, key: str) -> Folds:
    """Mean and t-interval over folds; folds share training text, so the interval is a little too narrow."""
    if len(scores) < 2:
        mean = scores[0] if scores else None
        return Folds(
            key=key,
            scores=tuple(scores),
            mean=mean,
            low=None,
            high=None,
            seconds_each=seconds_each,
            reason=reason,
        )
    mean = float(np.mean(scores))
    half = float(
        stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1) * np.std(scores, ddof=1) / math.sqrt(len(scores))
    )
    return Folds(
        key=key,
        scores=tuple(scores),
        mean=mean,
        low=mean - half,
        high=mean + half,
        seconds_each=seconds_each,
        reason=reason,
    )


@task(
    name=Folds.stage,
    task_run_name="cross-validate",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=once_a_run,
)
def cross_validate(blueprint: Blueprint, plan: Plan, tokens: Tokens, validation: Validation) -> Folds:
    """Scores of the recipe on each fold; the final run's workers start up as soon as a core is free."""
    with stage(Folds.stage) as shown:
        if plan.folds_seconds == 0:
            release_pools()
            FinalRun.launch(blueprint, plan, tokens)
            shown.result = "no folds: too little time, or none asked for"
            return summarise([], 0.0, shown.result, plan.key)
        workers = pool(plan.compute)
        rounds = math.ceil(validation.folds / workers.size)
        began = time.time()
        scores: dict[int, float] = {}
        unit = blueprint.objective.unit

        def one(fold: int) -> tuple[int, float]:
            end_of_round = began + (fold // workers.size + 1) * plan.folds_seconds / rounds
            deadline = end_of_round - SCORING_SHARE * plan.fold_seconds
            return fold, train_fold(plan, tokens, fold, blueprint, deadline)

        for fold, score in side_by_side(
            [partial(one, fold) for fold in range(validation.folds)], workers.size
        ):
            scores[fold] = score
            shown.move(len(scores) / validation.folds, f"fold {fold}: {score:.3f} {unit}")
            if validation.folds - len(scores) < workers.size:
                workers.release_idle()  # its memory, before the next ones take theirs
                FinalRun.launch(blueprint, plan, tokens)
        ordered = [scores[fold] for fold in sorted(scores)]
        held_out = (
            "all held-out documents"
            if blueprint.objective.head == "classification"
            else f"{scored_tokens(HELD_OUT_TOKENS, blueprint.objective):,} held-out tokens"
        )
        reason = f"{validation.folds} folds of {plan.fold_seconds:.0f} s each, {held_out}"
        folds = summarise(ordered, plan.fold_seconds, reason, plan.key)
        shown.result = (
            f"{folds.mean:.3f} {unit} ({folds.low:.3f} to {folds.high:.3f}), at {plan.fold_seconds:.0f} s a fold"
            if folds.low is not None
            else f"{folds.mean:.3f} {unit}"
        )
        return folds
