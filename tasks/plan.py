"""The planning: what is known of machine, data and earlier runs becomes one plan."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from prefect import task
from transformers import PreTrainedModel

from tasks.artifacts import InputError, Tokens
from tasks.calibrate import Calibration, at_depth, calibrate
from tasks.children import announce
from tasks.clock import Clock
from tasks.cluster import Compute
from tasks.division import Division, divide
from tasks.evidence import NO_EVIDENCE, Evidence, known_settings, look_up, waited_for, with_known
from tasks.forecast import best_depth, foresee, informed_law, optimal_depth, point_of
from tasks.home import run_folder
from tasks.memory import depths_that_fit, memory_bytes, micro_batch
from tasks.planned import Plan, seconds_per_token
from tasks.settle import DEPTHS, compile_or_not, dropout_rule, open_depths, settle
from tasks.split import fold_trainings
from tasks.study import Search
from tasks.telemetry import stage
from tasks.timing import STEPS_SHARE, Judging, judging, stages_of
from tasks.workers import workers_of
from training.blueprint import Blueprint, Learning
from training.law import Forecast
from training.model import Model, flops_per_token, hidden_parameters
from training.objectives import Objective

MOST_BEYOND = 4.0  # times the weights of the largest model that was measured; beyond that nothing is known
FINAL_GUESS = 0.85  # of the time left to train, until it is divided
LEAST_FINAL_SECONDS = 5.0
SPEED_DOUBTS = 3.0  # runs as fast as planned, counted with the earlier ones: speeds vary by the minute
SPEEDS_BELIEVED = (0.7, 1.3)  # measured over predicted, of earlier runs; beyond, something else went on


class Deciding:
    """The plan in the making: what is known, and the questions that it answers one after the other."""

    def __init__(
        self,
        clock: Clock,
        tokens: Tokens,
        base: Blueprint,
        compute: Compute,
        workers: int,
        calibration: Calibration,
        search: Search,
        evidence: Evidence = NO_EVIDENCE,
        depths: Sequence[int] = DEPTHS,
        memory: float = math.inf,
    ) -> None:
        self.clock, self.tokens, self.base, self.compute = clock, tokens, base, compute
        self.workers, self.calibration, self.search, self.evidence = workers, calibration, search, evidence
        self.memory = memory  # bytes that a worker may take
        self.batch_tokens = base.settled()[1]
        self.law, self.law_error, self.basis = informed_law(
            tokens, base.objective, self.batch_tokens, calibration, evidence
        )
        asked = base.model.settled_depth()
        most = MOST_BEYOND * max(map(hidden_parameters, calibration.rates))
        near = tuple(depth for depth in depths if hidden_parameters(depth) <= most)
        self.depths = (asked,) if asked else near or tuple(depths[:1])
        speeds = [run.speed for run in evidence.runs if run.speed and run.same_machine]
        believed = [speed for speed in speeds if SPEEDS_BELIEVED[0] < speed < SPEEDS_BELIEVED[1]]
        weight = len(believed) / (len(believed) + SPEED_DOUBTS)
        self.speed = median(believed) ** weight if believed else 1.0

    def rate(self, depth: int) -> float:
        """Tokens a second at a depth, inside optimizer steps of all workers."""
        return self.speed / seconds_per_token(self.calibration.rates, depth)

    def seen(self, depth: int, usable: float, share: float) -> float:
        """Tokens that a training sees which has a share of the budget."""
        return self.within_epochs(self.bought(depth, usable, share))

    def within_epochs(self, tokens: float) -> float:
        """So many tokens, or those after which a training has made its epochs."""
        return min(tokens, self.base.learning.most_tokens(self.tokens.tokens["train"]))

    def bought(self, depth: int, usable: float, share: float) -> float:
        """Tokens that a share of the budget buys at a depth, `usable` seconds being left where time counts."""
        amount = self.clock.amount
        if amount.unit == "tokens":
            return amount.value * share
        if amount.unit == "flops":
            return amount.value * share / self.flops(depth)
        return max(1.0, usable) * share * STEPS_SHARE * self.rate(depth)

    def flops(self, depth: int) -> float:
        """Training FLOPs a token."""
        return flops_per_token(sketched(self.base, depth), self.base.settled()[0])

    def depth(self, usable: float) -> int:
        """The best depth for what is left to train."""
        if self.clock.amount.unit == "tokens":
            return optimal_depth(
                self.law, self.tokens, self.batch_tokens, self.depths, self.seen(1, 0, FINAL_GUESS)
            )
        seen = {depth: self.seen(depth, usable, FINAL_GUESS) for depth in self.depths}
        return best_depth(self.law, self.tokens, self.batch_tokens, seen)

    def judged(self, depth: int) -> Judging:
        """What judging takes, with a model of this depth."""
        return judging(
            self.tokens,
            self.base.objective,
            self.rate(depth),
            self.clock.like_seconds,
            self.evidence.champion + self.evidence.earlier_tests,
            self.evidence.of_this_text(),
        )

    def usable(self, left: float, depth: int) -> float:
        """Seconds to train in, all stages together; where no clock is kept, those that it should take."""
        if self.clock.amount.unit == "seconds":
            return left - self.judged(depth).reserve(self.clock.amount.value)
        return self.bought(depth, 0.0, 1.0) / self.rate(depth) / STEPS_SHARE

    def divided(self, usable: float, depth: int) -> Division:
        """The stages' seconds."""
        point = point_of(self.tokens, self.batch_tokens, depth, self.seen(depth, usable, FINAL_GUESS))
        return divide(
            usable,
            self.workers,
            fold_trainings(self.tokens.splits),
            self.search.share,
            self.search.pruning,
            self.law.slope(point),
            tuple(run.gain for run in self.evidence.runs if run.gain is not None),
        )

    def forecast(self, times: float, left: float) -> Forecast:
        """The test score that so many times the budget should lead to."""
        left += (times - 1) * self.clock.like_seconds
        depth = self.depth(self.usable(left, self.depths[0]))
        usable = self.usable(left, depth)
        share = self.divided(usable, depth).final / usable
        bought = self.bought(depth, usable, share) * (1.0 if self.clock.amount.unit == "seconds" else times)
        seen = self.within_epochs(bought)
        return foresee(self.law, self.tokens, self.batch_tokens, depth, seen, self.law_error)

    def settled(self, base: Blueprint, depth: int, seconds: float) -> tuple[Learning, dict[str, str]]:
        """The learning with what machine and memory decide, and the reasons; `seconds` are the final run's."""
        learning, device = base.learning, self.compute.device_type
        compiled, why = compile_or_not(learning.compile, self.compute.on_gpu(), seconds)
        settled: dict[str, Any] = {"compile": compiled, "attention": self.calibration.attention}
        reasons = {"compile": why}
        if learning.micro_batch_tokens is None:
            fits = micro_batch(at_depth(base, depth), self.workers, device, self.memory)
            settled["micro_batch_tokens"] = fits
            if fits:
                reasons["micro_batch_tokens"] = "planner: memory does not hold a worker's whole batch"
        if learning.dropout is None:
            share = 1.0 if self.clock.amount.unit == "seconds" else FINAL_GUESS
            passes = self.seen(depth, seconds, share) / self.tokens.tokens["train"]
            sketch = sketched(base, depth)
            settled["dropout"], reasons["dropout"] = dropout_rule(base.objective, sketch, passes)
        return learning.model_copy(update=settled), reasons

    def too_small(self, used: float, reserve: float) -> InputError:
        """What is said of a budget that is `used` up but for a `reserve` of seconds."""
        return InputError(
            f"preparing and measuring took {used:.0f} s of the budget, and judging the model takes"
            f" {reserve:.0f} s: give at least {used + reserve + 4 * LEAST_FINAL_SECONDS:.0f}s"
        )

    def plan(self, reasons: dict[str, str] | None = None) -> Plan:
        """The plan. Raises InputError where the budget is too small for the data."""
        left, counted = self.clock.left(), self.clock.amount.unit != "seconds"
        depth = self.depth(self.usable(left, self.depths[0]))
        usable, judged = self.usable(left, depth), self.judged(depth)
        if usable < LEAST_FINAL_SECONDS and not counted:
            raise self.too_small(self.clock.amount.value - left, judged.reserve(self.clock.amount.value))
        parts = self.divided(usable, depth)
        known = known_settings(self.evidence.runs, self.base)
        base, prior = with_known(self.base, known, depth) if not parts.search else (self.base, {})
        learning, why = self.settled(base, depth, parts.final)
        rate, alone = self.rate(depth), self.rate(depth) / self.workers
        each = {d: parts.trial * self.rate(d) / self.workers for d in self.depths}
        trial, fold, final = (
            self.within_epochs(seconds * STEPS_SHARE * of)
            for seconds, of in ((parts.trial, alone), (parts.fold, alone), (parts.final, rate))
        )
        trial_depth = best_depth(self.law, self.tokens, self.batch_tokens, each) if parts.search else depth
        size = "lowest expected score for the budget, by the scaling law and the probe"
        given = "the checkpoint's" if base.model.kind == "pretrained" else "user"
        return Plan(
            key=self.clock.key,
            clock=self.clock,
            tokens=self.tokens,
            blueprint=at_depth(base, depth).model_copy(update={"learning": learning}),
            compute=self.compute,
            workers=self.workers,
            calibration=self.calibration,
            reasons={
                "depth": given if len(self.depths) == 1 else f"planner: {size}",
                "attention": self.calibration.attention_reason,
                **why,
                "search": parts.search_reason,
                "cross-validation": parts.folds_reason,
                **prior,
                **(reasons or {}),
            },
            depths=self.depths,
            law=self.law,
            law_error=self.law_error,
            tokens_per_second=rate,
            search_seconds=parts.search,
            trial_seconds=parts.trial,
            trial_depth=trial_depth,
            trial_tokens=int(trial) if counted else None,
            folds_seconds=parts.folds,
            fold_tokens=int(fold) if counted else None,
            final_seconds=parts.final,
            final_tokens=int(final) if counted else None,
            known_settings=tuple(run.settings for run in known),
            judging=judged,
            forecasts={
                name: self.forecast(times, left)
                for name, times in (("this budget", 1.0), ("twice", 2.0), ("four times", 4.0))
            },
            basis=self.basis,
            stages=stages_of(
                self.clock,
                self.calibration,
                replace(parts, final=final / rate / STEPS_SHARE),
                judged,
                depth,
                trial_depth,
                self.workers,
            ),
        )


def sketched(base: Blueprint, depth: int) -> PreTrainedModel:
    """The blueprint's model at a depth, without its weights."""
    blueprint = at_depth(base, depth)
    return blueprint.model.sketch(blueprint.shape())


@task(name=Plan.stage, task_run_name="plan the budget")
def plan_budget(
    clock: Clock,
    tokens: Tokens,
    model: Model,
    learning: Learning,
    objective: Objective,
    compute: Compute,
    search: Search,
    name: str,
    seed: int,
) -> Plan:
    """What to train, and for how long each stage; a resumed run divides what is left of its budget.

    Models of `name` are what the result is compared with. Raises InputError where the budget is too
    small for the data, or the memory for the model.
    """
    folder = run_folder(clock.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "plan.json"
    if (folder / "trained.json").exists():  # only judging and registering are left, whatever the time
        announce(clock, objective, seed)
        return Plan.model_validate_json(path.read_text())
    asked = look_up(tokens, objective, model, learning, compute, name)
    workers = workers_of(compute)
    with stage("Start the workers") as shown:
        workers.wait_ready()
        shown.result = f"{workers.size} under Ray Train"
    with stage(Plan.stage) as shown:
        settled, reasons = settle(
            learning, objective, model, tokens, workers.size, compute.on_gpu(), clock.like_seconds
        )
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
        memory = memory_bytes(compute, workers.size)
        depths = depths_that_fit(base, open_depths(objective), workers.device, memory)
        evidence = waited_for(asked)
        known = bool(evidence.of_this_text()), evidence.attention_here()
        calibration = calibrate(base, tokens, workers, folder, clock.like_seconds, shown, *known)
        if path.exists():  # a resumed run's checkpoints are of the blueprint that it had
            before = Plan.model_validate_json(path.read_text())
            base, reasons = before.blueprint, before.reasons
        deciding = Deciding(
            clock, tokens, base, compute, workers.size, calibration, search, evidence, depths, memory
        )
        plan = deciding.plan(reasons)
        announce(clock, objective, seed)
        expected = plan.forecasts["this budget"]
        shown.result = (
            f"depth {plan.blueprint.model.settled_depth()}, about {plan.tokens_per_second:,.0f} tokens/s, "
            f"{expected.low:.2f} to {expected.high:.2f} {objective.unit} expected; "
            f"search {plan.search_seconds:.0f} s, folds {plan.folds_seconds:.0f} s, "
            f"final run {plan.final_takes:.0f} s, judging {plan.reserve_seconds:.0f} s"
        )
        return plan
