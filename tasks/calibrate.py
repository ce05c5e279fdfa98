"""The calibration: what this machine does with this model and data, measured for seconds before the plan."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.artifacts import InputError, Tokens
from tasks.cluster import Pool, side_by_side
from tasks.telemetry import Stage
from training.attention import NAME as BLOCKWISE
from training.blueprint import Attention, Blueprint
from training.budget import Wall
from training.fittings import attention_for
from training.journal import read_journal
from training.worker import Assignment

DEPTHS_MEASURED = (2, 4, 6)
ATTENTION_DEPTH = 4  # of a model whose depth is open; where the ways of attention are compared
LEAST_BUDGET_SECONDS = 120.0  # in which they are compared; the comparison takes about 4
SECONDS = 1.2  # each
PATIENCE = (1, 5, 25)  # times so long, where building the model and the first step take longer


class Calibration(BaseModel):
    """What was measured; a resumed run keeps it, as its checkpoints demand."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rates: dict[int, float]  # tokens/s of a worker, by depth
    attention: Attention  # to train with
    attention_reason: str
    peak_flops: float | None = None  # of a worker's matrix products, all workers at once


def calibrate(
    base: Blueprint, tokens: Tokens, workers: Pool, folder: Path, budget_seconds: float, shown: Stage
) -> Calibration:
    """Tokens a second of one worker by depth, the fastest attention, and the peak of the hardware.

    `folder` is the run's; a resumed run finds there what it had measured.
    """
    path = folder / "calibration.json"
    if path.exists():
        return Calibration.model_validate_json(path.read_text())
    workers.wait_ready()
    peak_flops = workers.peak_flops(base.learning.precision)
    asked = base.model.settled_depth()
    first, depths = (ATTENTION_DEPTH, DEPTHS_MEASURED) if asked is None else (asked, (asked,))
    here = partial(_measured, base, tokens, workers, folder / "calibration")
    ways, reason = attentions(base, workers.device, budget_seconds)
    speeds = {way: here(first, way) for way in ways} if len(ways) > 1 else {}
    fastest = max(ways, key=lambda way: speeds.get(way, 0.0))
    rates = {first: speeds[fastest]} if speeds else {}
    for number, depth in enumerate(depths):
        rates[depth] = rates.get(depth) or here(depth, fastest)
        shown.move((number + 1) / len(depths), f"depth {depth}: {rates[depth]:,.0f} tokens/s a worker")
    found = Calibration(
        rates={depth: rates[depth] for depth in depths},
        attention=fastest,
        attention_reason=", ".join(f"{way} {speed:,.0f} tokens/s" for way, speed in speeds.items()) or reason,
        peak_flops=peak_flops,
    )
    path.write_text(found.model_dump_json())
    return found


def attentions(base: Blueprint, device: str, budget_seconds: float) -> tuple[tuple[Attention, ...], str]:
    """The implementations to compare, the usual one first, and, where there is one only, why."""
    if base.learning.attention != "auto":
        return (base.learning.attention,), "user"
    model = at_depth(base, base.model.settled_depth() or ATTENTION_DEPTH)
    shape = model.shape(device)
    sketch = model.model.sketch(shape)
    config = sketch.config.get_text_config()
    causal = device == "cpu" and base.objective.head == "causal"
    offered: dict[Attention, bool] = {BLOCKWISE: causal, "eager": True, "sdpa": sketch._supports_sdpa}
    ways = [way for way, there in offered.items() if there and attention_for(config, way) == way]
    ways.sort(key=lambda way: way != shape.attention)
    if len(ways) == 1:
        return (ways[0],), "the only one for this model"
    if budget_seconds < LEAST_BUDGET_SECONDS:
        return (ways[0],), f"the usual here; measured from a budget of {LEAST_BUDGET_SECONDS:.0f} s on"
    return tuple(ways), ""


def at_depth(blueprint: Blueprint, depth: int) -> Blueprint:
    """The blueprint with its depth settled."""
    return blueprint.model_copy(update={"model": blueprint.model.with_depth(depth)})


def _measured(
    base: Blueprint, tokens: Tokens, workers: Pool, folder: Path, depth: int, attention: Attention
) -> float:
    """Tokens a second of one worker at a depth, under one implementation of attention."""
    learning = base.learning.model_copy(update={"attention": attention, "compile": "off"})
    assignment = Assignment(
        folder=folder / f"depth-{depth}-{attention}",
        blueprint=at_depth(base, depth).model_copy(update={"learning": learning}),
        shards=tokens.folder,
        clock=Wall(0.0),
        looks=(),
        device=workers.device,
    )
    return measured_rate(workers, assignment)


def measured_rate(workers: Pool, assignment: Assignment) -> float:
    """Tokens a second of one worker, while all of them train the same at once.

    Raises InputError where not even one step fits into the time that a calibration may take.
    """

    def one(number: int) -> float:
        for patience in PATIENCE:
            clock = Wall(time.time() + patience * SECONDS)
            mine = replace(assignment, folder=assignment.folder / f"worker-{number}-{patience}", clock=clock)
            workers.carry_out(mine)
            journal = read_journal(mine.folder / "journal.jsonl")
            rates = [event["tokens_per_second"] for event in journal if event["event"] == "step"]
            if rates:
                settled = sorted(rates[len(rates) // 3 :])  # the first steps are slow
                return float(settled[len(settled) // 2])
        raise InputError(
            f"one step takes this machine longer than {PATIENCE[-1] * SECONDS:.0f} s: set a smaller"
            " learning.batch_tokens, or choose a smaller model"
        )

    return min(side_by_side([partial(one, number) for number in range(workers.size)], workers.size))
