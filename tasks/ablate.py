"""What pays here: the recipe against itself without each technique, at equal time, over several seeds."""

import math
import re
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import InputError, Tokens
from tasks.calibrate import at_depth
from tasks.children import log_child
from tasks.clean import Cleaning
from tasks.cluster import Compute
from tasks.effects import FEWEST_SEEDS, Effect, effects_of
from tasks.forecast import best_depth, optimal_depth
from tasks.home import run_folder
from tasks.outbox import Courier
from tasks.planned import Plan, seconds_per_token
from tasks.recipe import check_together
from tasks.recleaned import Recleaned
from tasks.settle import STEP_PASSES, scored_tokens, uncompiled
from tasks.shares import (
    END_SECONDS,
    END_SHARE,
    GRACE_SHARE,
    LOOK_SHARE,
    PREPARING_SECONDS,
    in_rounds,
    share_out,
)
from tasks.source import Source
from tasks.study import Search
from tasks.techniques import CLEANINGS, Variant, added, in_turn, settled_precision
from tasks.telemetry import Stage, log, stage
from tasks.timing import STEPS_SHARE
from tasks.tracking import KIND_TAG
from tasks.train import LOOKS
from tasks.workers import release_workers, side_by_side, workers_of
from tasks.worth import RECIPE, WhatPays, keep
from training.blueprint import Blueprint, Learning
from training.budget import TokenCount, Wall, parse_budget
from training.desk import TooLate
from training.model import Model, flops_per_token
from training.objectives import Objective
from training.watch import OTHER
from training.worker import Assignment, Outcome

WATCHED_TOKENS = (16_384, 131_072)  # at least and at most


def check_comparison(
    source: Source,
    cleaning: Cleaning,
    objective: Objective,
    model: Model,
    learning: Learning,
    compute: Compute,
    also: tuple[str, ...],
    budget: str,
) -> None:
    """Looks at the door whether there is something to compare, and time for it.

    Raises InputError for what cannot be added or does not fit, for a recipe in which nothing is in use, and
    for a budget that cannot suffice, whatever the preparations take.
    """
    bare = Blueprint(model=model, objective=objective, learning=learning, vocabulary=512)
    bare = settled_precision(bare, compute.device_type)
    adding, removing = added(bare, also), in_turn(bare)
    for variant in adding:
        other = variant.blueprint
        if other == bare:
            raise InputError(f"--also {variant.name}: the recipe has that already")
        check_together(source, other.objective, other.model, other.learning, compute, Search())
    cleaned = any(without(cleaning) for _, without in CLEANINGS)
    if not (adding or removing or cleaned or learning.attention == "auto"):
        _refuse_nothing()
    amount = parse_budget(budget)
    if amount.unit == "seconds":
        variants = 1 + len(adding) + len(removing)
        left = amount.value - PREPARING_SECONDS
        share_out(amount, left, max(2, variants), FEWEST_SEEDS, compute.count())


def _refuse_nothing() -> None:
    raise InputError(
        "there is nothing to take out: no technique is in use in this recipe. Name some to add in turn, such"
        " as --also learning.average=0.1"
    )


@task(name="Train a variant", task_run_name="{name}-seed-{seed}", cache_policy=NO_CACHE)
def train_variant(
    assignment: Assignment, seconds: float, until: float | None, compute: Compute, name: str, seed: int
) -> Outcome:
    """One training on a warm worker: `seconds` long from now on, and given up at `until`, where time counts."""
    if isinstance(assignment.clock, Wall):
        begun = replace(assignment.clock, deadline=time.time() + seconds)
        assignment = replace(assignment, clock=begun)
    return workers_of(compute).carry_out(assignment, until=until)


class Comparing:
    """A comparison under way: its variants, how long each is trained, and what came of it."""

    def __init__(
        self, plan: Plan, tokens: Tokens, recleaned: Recleaned, also: tuple[str, ...], seeds: int
    ) -> None:
        self.plan, self.clock, self.workers = plan, plan.clock, workers_of(plan.compute).size
        self.device = plan.compute.device_type
        self.own_tokens, self.tokens, self.left_out = tokens, dict(recleaned.tokens), dict(recleaned.left_out)
        base = settled_precision(uncompiled(plan.blueprint), self.device)
        count = 1 + len(in_turn(base)) + len(self.tokens) + len(set(also))
        if count == 1:
            _refuse_nothing()
        amount = self.clock.amount
        self.end = END_SECONDS + END_SHARE * self.clock.like_seconds
        self.latest = self.clock.deadline - self.end
        total = self._all_tokens(base)
        left = total / plan.tokens_per_second if total else self.clock.left() - self.end
        trained, self.seconds = share_out(amount, left, count, seeds, self.workers)
        self.seeds = range(base.seed, base.seed + trained)
        self.tokens_each = int(total / count / trained) if total else None
        self.depth = self._depth(base)
        self.variants = self._variants(at_depth(base, self.depth), also)
        rate = 1 / seconds_per_token(plan.calibration.rates, self.depth) / self.workers
        least, most = WATCHED_TOKENS
        affordable = LOOK_SHARE * self.seconds * rate * STEP_PASSES
        self.watched = scored_tokens(int(min(most, max(least, affordable))), base.objective)
        self.outcomes: dict[tuple[str, int], Outcome | None] = {}
        self._lock = threading.Lock()

    def _all_tokens(self, base: Blueprint) -> float | None:
        """Of all trainings together; None where the clock is kept."""
        amount = self.clock.amount
        if amount.unit == "flops":
            flops = flops_per_token(base.model.sketch(base.shape()), base.settled()[0])
            return amount.value / flops
        return amount.value if amount.unit == "tokens" else None

    def _depth(self, base: Blueprint) -> int:
        """The best for a training of this length on one worker."""
        plan, batch = self.plan, base.settled()[1]
        if not plan.depth_is_open:
            return plan.depths[0]
        if self.tokens_each:
            return optimal_depth(plan.law, plan.tokens, batch, plan.depths, self.tokens_each)
        share = self.seconds * STEPS_SHARE / self.workers
        rates = plan.calibration.rates
        seen = {depth: plan.within_epochs(share / seconds_per_token(rates, depth)) for depth in plan.depths}
        return best_depth(plan.law, plan.tokens, batch, seen)

    def _variants(self, base: Blueprint, also: tuple[str, ...]) -> list[Variant]:
        """The recipe first."""
        recleaned = [
            Variant(name, base.model_copy(update={"data": tokens.key}), "on", "off")
            for name, tokens in self.tokens.items()
        ]
        adding = added(base, also)
        same = [variant.name for variant in adding if variant.blueprint == base]
        self.left_out |= dict.fromkeys(same, "the plan has chosen that already")
        new = [variant for variant in adding if variant.blueprint != base]
        return [Variant(RECIPE, base), *in_turn(base), *recleaned, *new]

    def train(self, variant: Variant, seed: int) -> None:
        """One training, unless it would end too late; what it led to is kept, and told to MLflow."""
        if not self.tokens_each and time.time() + self.seconds > self.latest:
            return
        name = re.sub(r"[^a-z0-9]+", "-", variant.name.lower()).strip("-")
        blueprint = variant.blueprint.model_copy(update={"seed": seed})
        folder = run_folder(self.clock.run_id) / "trainings" / f"{name}-seed-{seed}"
        looks = tuple((look + 1) / LOOKS for look in range(LOOKS)) if blueprint.learning.patience else (1.0,)
        assignment = Assignment(
            folder=folder,
            blueprint=blueprint,
            shards=self.tokens.get(variant.name, self.own_tokens).folder,
            clock=TokenCount(self.tokens_each) if self.tokens_each else Wall(math.inf, self.plan.most_tokens),
            looks=looks,
            watched_tokens=self.watched,
            peak_flops=self.plan.calibration.peak_flops,
            device=self.device,
        )
        outcome = None
        try:
            until = None if self.tokens_each else self.latest + GRACE_SHARE * self.end
            outcome = train_variant(assignment, self.seconds, until, self.plan.compute, name, seed)
        except TooLate:
            return
        except FloatingPointError as problem:
            log.warning("%s, seed %d, diverged: %s", variant.name, seed, problem)
        (folder / OTHER).unlink(missing_ok=True)
        with self._lock:
            self.outcomes[variant.name, seed] = outcome
        log_child(
            self.clock,
            f"{name}-seed-{seed}",
            {KIND_TAG: "ablation"},
            {"technique": variant.name, "recipe": variant.was, "instead": variant.instead, "seed": seed},
            folder / "journal.jsonl",
            outcome.summary.validation_bits if outcome else None,
            "FINISHED" if outcome else "FAILED",
            blueprint.objective.unit,
        )

    def run(self, shown: Stage) -> None:
        """All trainings."""
        order = in_rounds(len(self.variants), self.seeds, self.workers)
        jobs = [partial(self.train, self.variants[number], seed) for number, seed in order]
        for number, _ in enumerate(side_by_side(jobs, self.workers)):
            shown.move((number + 1) / len(jobs), f"{number + 1} of {len(jobs)} trainings")

    def scores(self, variant: Variant, seeds: list[int]) -> tuple[float | None, ...]:
        """By seed; None where the training failed."""
        found = [self.outcomes[variant.name, seed] for seed in seeds]
        bits = [one.summary.validation_bits if one else None for one in found]
        return tuple(score if score is not None and math.isfinite(score) else None for score in bits)

    def speed(self, variant: Variant, seeds: list[int]) -> float | None:
        """Tokens a second of its steps, a mean over seeds."""
        found = [one.summary for seed in seeds if (one := self.outcomes[variant.name, seed])]
        return float(np.mean([one.tokens / one.training_seconds for one in found])) if found else None

    def record(self) -> WhatPays:
        """What came of it. Raises InputError where the recipe itself never came to an end."""
        done = [
            seed
            for seed in self.seeds
            if all((variant.name, seed) in self.outcomes for variant in self.variants)
        ]
        recipe, *others = self.variants
        scores = self.scores(recipe, done)
        if not any(scores):
            why = (
                "diverged: lower its learning rate"
                if done
                else "came too late: other work slows this machine"
            )
            raise InputError(f"nothing can be compared, as the recipe's own training {why}")
        described = [
            Effect(
                technique=variant.name,
                added=variant.added,
                was=variant.was,
                instead=variant.instead,
                scores=self.scores(variant, done),
                tokens_per_second=self.speed(variant, done),
            )
            for variant in others
        ]
        effects, counted = effects_of(described, scores)
        place = Courier.of(self.clock.run_id).place()
        return WhatPays(
            key=self.plan.key,
            run_id=self.clock.run_id,
            mlflow_run_id=place[1] if place else None,
            budget=self.clock.budget,
            started=self.clock.started,
            unit=recipe.blueprint.objective.unit,
            bits=float(np.mean([scores[number] for number in counted])),
            scores=scores,
            tokens_per_second=self.speed(recipe, done),
            seeds=tuple(done[number] for number in counted),
            seconds_each=None if self.tokens_each else self.seconds,
            tokens_each=self.tokens_each,
            depth=self.depth,
            watched_tokens=self.watched,
            effects=tuple(effects),
            left_out=self.left_out,
        )


@task(name=WhatPays.stage, task_run_name="take out each technique")
def compare_techniques(
    plan: Plan, tokens: Tokens, recleaned: Recleaned, also: tuple[str, ...], seeds: int
) -> WhatPays:
    """What every technique in use is worth, and every one in `also`: equal time, the same seeds, side by side.

    Raises InputError where there is nothing to compare or too little time, and what a training raises that
    does not merely diverge.
    """
    with stage(WhatPays.stage) as shown:
        comparing = Comparing(plan, tokens, recleaned, also, seeds)
        comparing.run(shown)
        release_workers()
        found = comparing.record()
        keep(found)
        shown.result = found.sentence()
    return found
