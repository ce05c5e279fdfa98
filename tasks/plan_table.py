"""A plan for people: every choice with its reason, every stage's time and memory, and what should come of it."""

from typing import Any

from tasks.planned import Plan

NO_MORE_HELP = 0.01  # relative gain by four times the budget, under which more time does not help


def rows_of(plan: Plan) -> list[dict[str, Any]]:
    """Lines of what, value, 90 % interval and reason."""
    return [*settled(plan), *stages(plan), *expected(plan)]


def line(what: str, value: object, interval: str = "", reason: str = "") -> dict[str, Any]:
    """One line of the table."""
    return {"what": what, "value": str(value), "90 % interval": interval, "reason": reason}


def settled(plan: Plan) -> list[dict[str, Any]]:
    """What was measured and chosen, and why."""
    calibration, model = plan.calibration, plan.blueprint.model
    rates = ", ".join(f"depth {depth}: {rate:,.0f}" for depth, rate in calibration.rates.items())
    vocabulary = "the checkpoint's" if model.kind == "pretrained" else "rule: by text and budget"
    values = plan.blueprint.learning.model_dump() | {"depth": model.settled_depth()}
    values |= plan.blueprint.learning.optimizer.model_dump() | plan.blueprint.learning.schedule.model_dump()
    passes = plan.final_seen / plan.tokens.tokens["train"]
    return [
        line("workers", plan.workers, reason="user" if plan.compute.workers else "one for each core or GPU"),
        line("measured tokens/s", rates, reason="all workers together, trained just now"),
        line(
            "peak",
            f"{(calibration.peak_flops or 0) * plan.workers / 1e9:,.0f} GFLOP/s",
            reason="matrix products, measured just now",
        ),
        *(
            line(name.replace("_", " "), values[name], reason=reason)
            for name, reason in plan.reasons.items()
            if name in values
        ),
        line("vocabulary", f"{plan.tokens.vocabulary:,}", reason=vocabulary),
        line(
            "tokens of the final run",
            f"{plan.final_seen:,.0f}",
            reason=f"{passes:.2f} passes over the train split of {plan.tokens.tokens['train']:,}",
        ),
    ]


def stages(plan: Plan) -> list[dict[str, Any]]:
    """Time and memory."""
    reasons = {
        "search": plan.reasons["search"],
        "cross-validation": plan.reasons["cross-validation"],
        "evaluation, registration, exit": plan.judging.reason,
        "final run": "what is left",
        "preparing and planning": "done",
    }
    there = {one.stage for one in plan.stages}
    found = [
        line(
            one.stage,
            f"{one.seconds:.0f} s" + (f", {one.memory_gb:.1f} GB" if one.memory_gb else ""),
            "" if one.done else f"{one.low:.0f} to {one.high:.0f} s",
            reasons.get(one.stage, ""),
        )
        for one in plan.stages
    ]
    missing = [name for name in ("search", "cross-validation") if name not in there]
    return found + [line(name, "none", reason=reasons[name]) for name in missing]


def expected(plan: Plan) -> list[dict[str, Any]]:
    """What the budget should lead to, and twice and four times as much."""
    unit = plan.blueprint.objective.unit
    names = {"this budget": "with this budget", "twice": "with twice", "four times": "with four times"}
    found = [
        line(
            f"test score {names[name]}",
            f"{one.bits:.3f} {unit}",
            f"{one.low:.3f} to {one.high:.3f}",
            plan.basis if name == "this budget" else "the same law",
        )
        for name, one in plan.forecasts.items()
    ]
    return [*found, line("advice", advice(plan))]


def advice(plan: Plan) -> str:
    """Whether more time would help, or more text."""
    now, later = plan.forecasts["this budget"].bits, plan.forecasts["four times"].bits
    passes = plan.final_seen / plan.tokens.tokens["train"]
    if later > now * (1 - NO_MORE_HELP):
        return f"more time will not help, more text will: this text is seen {passes:.0f} times already"
    return f"four times the budget would make it {1 - later / now:.0%} better"
