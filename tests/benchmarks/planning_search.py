"""What pruning saves, and whether rates are carried across widths as the rule says."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.byte_level import START, VOCABULARY, read_text, write_shards
from tests.benchmarks.lanes import Go, Job, run_in_lanes
from tests.benchmarks.planning_runs import Observed
from training.blueprint import Blueprint, Learning
from training.budget import TokenCount
from training.config import with_fields
from training.journal import read_journal
from training.model import Scratch, width_of

MODULE = "tests.benchmarks.planning_search"
RATE = "learning.optimizer.learning_rate"
AROUND = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the default rate
NARROW, WIDE = 2, 6  # depths
AS_GOOD = 1.003  # relative; less is noise between seeds


@dataclass(frozen=True)
class Spent:
    """One search: its best whole trial, and what was spent until a whole trial was so good."""

    best: float
    whole: list[tuple[float, float]]  # (Unix time, score) of whole trials
    steps: list[tuple[float, float]]  # (Unix time, seconds of training) of every step

    def until(self, score: float) -> float | None:
        """Trial-seconds until a whole trial scored so; None where none did."""
        reached = min((when for when, found in self.whole if found <= score), default=None)
        if reached is None:
            return None
        return sum(seconds for when, seconds in self.steps if when <= reached)


def spent(seen: Observed) -> Spent:
    """What the search of a run spent, by the journals of its trials."""
    whole, steps = [], []
    for journal in (Path(seen.result()["run_folder"]) / "trials").glob("*/journal.jsonl"):
        if not journal.parent.name.isdigit():  # of another size or seed, beside the study
            continue
        before = 0.0
        for event in read_journal(journal):
            if event["event"] == "step":
                steps.append((event["time"], event["training_seconds"] - before))
                before = event["training_seconds"]
            elif event["event"] == "validation" and event["progress"] >= 1:
                whole.append((event["time"], float(event["bits"])))
    return Spent(min(score for _, score in whole), whole, steps)


def saved(off: Observed, on: Observed) -> float | None:
    """Trial-seconds with pruning over those without, to the worse one's best score; None where out of reach."""
    without, pruned = spent(off), spent(on)
    score = max(without.best, pruned.best) * AS_GOOD
    long, short = without.until(score), pruned.until(score)
    return short / long if long and short else None


def train_at(
    go: Go, shards: str, folder: str, depth: int, optimizer: str, times: float, tokens: int
) -> dict[str, Any]:
    """One training at a depth and a multiple of the optimizer's own rate."""
    from training.worker import Assignment, carry_out

    learning = Learning.model_validate(
        {"context": 256, "batch_tokens": 2048, "optimizer": {"kind": optimizer}}
    )
    blueprint = Blueprint(
        model=Scratch(depth=depth), learning=learning, vocabulary=VOCABULARY, start_token=START
    )
    blueprint = with_fields(blueprint, {RATE: times * learning.optimizer.learning_rate})
    go()
    outcome = carry_out(
        Assignment(
            folder=Path(folder),
            blueprint=blueprint,
            shards=Path(shards),
            clock=TokenCount(tokens),
            watched_tokens=60_000,
            threads=torch.get_num_threads(),
        )
    )
    return {"depth": depth, "optimizer": optimizer, "times": times, "bits": outcome.summary.validation_bits}


def measure_transfer(
    text: Path | None, optimizers: tuple[str, ...], tokens: int, say: Callable[[str], None]
) -> dict[str, dict[int, dict[float, float]]]:
    """Bits after equal tokens, by optimizer, depth and multiple of the rate."""
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder:
        shards = write_shards(Path(folder) / "shards", read_text(text))
        jobs = [
            Job(
                f"{MODULE}:train_at",
                {
                    "shards": str(shards.folder),
                    "folder": str(Path(folder) / f"{optimizer}-{depth}-{times}"),
                    "depth": depth,
                    "optimizer": optimizer,
                    "times": times,
                    "tokens": tokens,
                },
            )
            for optimizer in optimizers
            for depth in (NARROW, WIDE)
            for times in AROUND
        ]
        found: dict[str, dict[int, dict[float, float]]] = {}
        for result in run_in_lanes(jobs, 1):
            say(json.dumps(result))
            by_depth = found.setdefault(result["optimizer"], {})
            by_depth.setdefault(result["depth"], {})[result["times"]] = result["bits"]
    return found


def regret(curve: dict[float, float], times: float) -> float:
    """How much worse than the best rate this one is, relative; between rates by a line in the logarithm."""
    import numpy as np

    rates = sorted(curve)
    at = float(np.interp(np.log(times), np.log(rates), [curve[rate] for rate in rates]))
    return at / min(curve.values()) - 1


def carried(curves: dict[int, dict[float, float]], power: float) -> float:
    """The relative loss at the wide model, of the narrow one's best rate, carried by a power of the width."""
    best = min(curves[NARROW], key=lambda times: curves[NARROW][times])
    return regret(curves[WIDE], best * (width_of(WIDE) / width_of(NARROW)) ** power)
