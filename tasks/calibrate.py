"""The calibration: what this machine does with this model and data, measured for seconds before the plan.

All workers train together, as they will in the final run. The first of these trainings is the probe:
its model is the run's first, and its scores are where the forecast starts.
"""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.artifacts import InputError, Tokens
from tasks.generate import load
from tasks.settle import PASSES, STEP_PASSES, scored_tokens
from tasks.telemetry import Stage
from tasks.workers import Workers
from training.attention import NAME as BLOCKWISE
from training.blueprint import Attention, Blueprint
from training.budget import Effort
from training.data import Shards, Slice
from training.fittings import attention_for
from training.journal import Event, read_journal
from training.model import autocast
from training.units import bits
from training.watch import Watch
from training.worker import Assignment

PROBE = "probe"  # the folder of the probe, in the run's
PROBE_DEPTH = 2  # of a model whose depth is open
# Measured from so many seconds of budget on: those about the depth that such a budget can feed.
DEPTHS_MEASURED = ((0.0, (1, 2)), (150.0, (1, 2, 4)), (900.0, (2, 4, 6)), (7200.0, (2, 4, 6, 10)))
LEAST_BUDGET_SECONDS = 450.0  # in which they are compared; the comparison takes 2 to 4
SHARE, LEAST_SECONDS, MOST_SECONDS = 0.003, 0.7, 2.5  # of the budget, for each measurement
PROBE_SHARE, LONGEST_PROBE_SECONDS = 0.012, 60.0  # the same for the probe whose score is extrapolated
SLOWEST_STEP = 25.0  # times as long as a measurement; who takes longer is sent away
EARLY = 1 / 3  # of the probe, at which it is looked at once more
FIRST_STEPS = 2  # which are slow
LEAST_STEPS, LEAST_OTHER_STEPS = 10, 8  # of the probe, and of a measurement; their speed varies twofold
WATCHED_TOKENS = 16_384  # of the validation split
SCORING_SHARE = 0.006  # of the budget, to score the probe on the test split
PIECE = 4  # contexts; the test split is scored in pieces so long, as most of its windows have something before them


class Probe(BaseModel):
    """A model of seconds, and its scores; `test_error` is the relative standard error of a sample."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    depth: int
    tokens: int  # trained on
    validation_bits: float
    early_tokens: int  # a third of these, where the rate has hardly come down
    early_validation_bits: float
    test_bits: float
    test_error: float


class Calibration(BaseModel):
    """What was measured; a resumed run keeps it, as its checkpoints demand."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rates: dict[int, float]  # tokens/s of all workers together, by depth
    memory_gb: dict[int, float] = {}  # a worker's, at most, by depth
    attention: Attention  # to train with
    attention_reason: str
    peak_flops: float | None = None  # of a worker's matrix products, all workers at once
    probe: Probe


def calibrate(
    base: Blueprint,
    tokens: Tokens,
    workers: Workers,
    folder: Path,
    like_seconds: float,
    shown: Stage,
    text_is_known: bool = False,
    attention_here: tuple[Attention, str] | None = None,
) -> Calibration:
    """Tokens a second of all workers by depth, the fastest attention, the peak of the hardware, and the probe.

    Where earlier runs have shown how this text is learned, a short probe is enough; where they have found
    which attention is fastest here, it is taken, and the reason is theirs. `folder` is the run's; a resumed
    run finds there what it had measured. Raises InputError where not even one step fits into the time
    that a calibration may take.
    """
    path = folder / "calibration.json"
    if path.exists():
        return Calibration.model_validate_json(path.read_text())
    peak_flops = workers.peak_flops(base.learning.precision)
    seconds = min(MOST_SECONDS, max(LEAST_SECONDS, SHARE * like_seconds))
    asked = base.model.settled_depth()
    ways, reason = attentions(base, workers.device, like_seconds)
    if attention_here is not None and len(ways) > 1 and attention_here[0] in ways:
        ways, reason = (attention_here[0],), attention_here[1]
    usual = [depths for since, depths in DEPTHS_MEASURED if like_seconds >= since][-1]
    probed, depths = (PROBE_DEPTH, usual) if asked is None else (asked, (asked,))
    here = partial(Measurement, base, tokens, workers, folder)
    here(probed, ways[0], seconds)  # first steps are slow, as so much is done for the first time
    longer = min(LONGEST_PROBE_SECONDS, PROBE_SHARE * like_seconds)
    first = here(probed, ways[0], seconds if text_is_known else max(2 * seconds, longer), PROBE)
    probe = scored(first, workers, SCORING_SHARE * like_seconds)
    shown.move(0.5, f"a first model: {probe.test_bits:.2f} {base.objective.unit}")
    speeds = {ways[0]: first} | {way: here(probed, way, seconds) for way in ways[1:]}
    fastest = max(speeds, key=lambda way: speeds[way].rate)
    measured = {probed: speeds[fastest]}
    for number, depth in enumerate(depths):
        measured[depth] = measured.get(depth) or here(depth, fastest, seconds)
        shown.move(
            0.6 + 0.4 * (number + 1) / len(depths), f"depth {depth}: {measured[depth].rate:,.0f} tokens/s"
        )
    found = Calibration(
        rates={depth: measured[depth].rate for depth in depths},
        memory_gb={depth: measured[depth].memory_gb for depth in depths},
        attention=fastest,
        attention_reason=reason
        or ", ".join(f"{way} {speed.rate:,.0f} tokens/s" for way, speed in speeds.items()),
        peak_flops=peak_flops,
        probe=probe,
    )
    path.write_text(found.model_dump_json())
    return found


def attentions(base: Blueprint, device: str, like_seconds: float) -> tuple[tuple[Attention, ...], str]:
    """The implementations to compare, the usual one first, and, where there is one only, why."""
    if base.learning.attention != "auto":
        return (base.learning.attention,), "user"
    model = at_depth(base, base.model.settled_depth() or PROBE_DEPTH)
    shape = model.shape(device)
    sketch = model.model.sketch(shape)
    config = sketch.config.get_text_config()
    causal = device == "cpu" and base.objective.head == "causal"
    offered: dict[Attention, bool] = {BLOCKWISE: causal, "eager": True, "sdpa": sketch._supports_sdpa}
    ways = [way for way, there in offered.items() if there and attention_for(config, way) == way]
    ways.sort(key=lambda way: way != shape.attention)
    if len(ways) == 1:
        return (ways[0],), "the only one for this model"
    if like_seconds < LEAST_BUDGET_SECONDS:
        return (ways[0],), f"the usual here; measured from a budget of {LEAST_BUDGET_SECONDS:.0f} s on"
    return tuple(ways), ""


def at_depth(blueprint: Blueprint, depth: int) -> Blueprint:
    """The blueprint with its depth settled."""
    return blueprint.model_copy(update={"model": blueprint.model.with_depth(depth)})


class Measurement:
    """A short training of all workers together at a depth, under one implementation of attention."""

    def __init__(
        self,
        base: Blueprint,
        tokens: Tokens,
        workers: Workers,
        folder: Path,
        depth: int,
        attention: Attention,
        seconds: float,
        name: str = "",
    ) -> None:
        learning = base.learning.model_copy(update={"attention": attention, "compile": "off"})
        self.blueprint = at_depth(base, depth).model_copy(update={"learning": learning})
        self.depth, self.shards = depth, Shards(tokens.folder)
        slowest = SLOWEST_STEP * seconds
        self.folder = folder / (name or f"calibration/depth-{depth}-{attention}")
        shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed meanwhile
        workers.carry_out_together(
            Assignment(
                folder=self.folder,
                blueprint=self.blueprint,
                shards=tokens.folder,
                clock=Effort(seconds, LEAST_STEPS if name else LEAST_OTHER_STEPS, slowest),
                looks=(EARLY, 1.0) if name else (),
                watched_tokens=scored_tokens(WATCHED_TOKENS, base.objective),
                keep_model=bool(name),
                device=workers.device,
            )
        )
        events = list(read_journal(self.folder / "journal.jsonl"))
        self.steps = [event for event in events if event["event"] == "step"]
        self.looks = [event for event in events if event["event"] == "validation"]
        if self.steps[-1]["training_seconds"] / len(self.steps) > slowest:
            raise InputError(
                f"one step takes this machine longer than {slowest:.0f} s: set a smaller"
                " learning.batch_tokens, or choose a smaller model"
            )

    @property
    def rate(self) -> float:
        """Tokens a second over a whole training, of which the first part has the short context."""
        share = self.blueprint.learning.short_context
        settled = self.steps[FIRST_STEPS:] or self.steps[-1:]
        parts = [
            (share, [event for event in settled if event["progress"] < share]),
            (1 - share, [event for event in settled if event["progress"] >= share]),
        ]
        there = [(weight, settled_rate(events)) for weight, events in parts if weight and events]
        return sum(weight * rate for weight, rate in there) / sum(weight for weight, _ in there)

    @property
    def memory_gb(self) -> float:
        """The most that the first worker held."""
        return max(float(event["memory_gb"]) for event in self.steps)


def settled_rate(steps: list[Event]) -> float:
    """Tokens a second over all steps together, as it is them that take a training's time."""
    return float(1 / np.mean([1 / event["tokens_per_second"] for event in steps]))


def scored(measured: Measurement, workers: Workers, seconds: float) -> Probe:
    """The probe, scored on as much of the test split as takes `seconds`; nothing but the forecast hangs on that."""
    blueprint = measured.blueprint
    labelled = blueprint.objective.head == "classification"
    context = blueprint.settled()[0]
    tokens = int(seconds * measured.rate * STEP_PASSES / PASSES[blueprint.objective.head])
    sample = Watch(Slice(measured.shards, "test"), tokens).sample(PIECE * context, labelled)
    folder = measured.folder / "model"
    if blueprint.objective.kind == "sequence_classification":
        model, _ = load(folder)
        precise = autocast(model.device, blueprint.learning.precision)
        nats = blueprint.objective.score(model, sample, context, blueprint.mask_token, precise)
    else:
        nats = workers.score(folder, blueprint.objective, sample.documents, context, blueprint.mask_token)
    value = bits(float(nats.sum()), float(sample.weights.sum()))
    there = Slice(measured.shards, "test").tokens()
    spread = np.std(nats - nats.sum() / sample.weights.sum() * sample.weights) * np.sqrt(len(nats))
    unseen = max(0.0, 1 - tokens / max(1, there))  # of a finite split
    early, late = measured.looks[0], measured.looks[-1]
    return Probe(
        depth=measured.depth,
        tokens=late["tokens"],
        validation_bits=late["bits"],
        early_tokens=early["tokens"],
        early_validation_bits=early["bits"],
        test_bits=value,
        test_error=float(spread / nats.sum() * np.sqrt(unseen)) if len(nats) > 1 else 0.05,
    )
