"""Our training watched for its speed, as jobs of `tests.benchmarks.lanes`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers.utils import logging as transformers_logging

from tests.benchmarks.byte_level_runs import CONTEXT, our_blueprint
from tests.benchmarks.lanes import Go
from training.blueprint import Blueprint
from training.budget import Wall, matmul_peak_flops
from training.context import Context
from training.data import Shards, Slice
from training.journal import read_journal
from training.loop import train
from training.model import flops_per_token, has_fast_bf16
from training.state import Position, State

SETTLING = 0.25  # of the time; what is slow at first does not count


@dataclass
class StallContext(Context):
    """Adds up the time in which the training waits for a checkpoint."""

    stalled: float = 0.0
    saves: int = 0

    def save(self, position: Position, state: State) -> None:
        """Saves, and looks at the clock before and after."""
        began = time.perf_counter()
        super().save(position, state)
        self.stalled += time.perf_counter() - began
        self.saves += 1


def peak_flops() -> float:
    """FLOPs a second of large products of matrices on this process' cores: bf16 where that is fast, else fp32."""
    device = torch.device("cpu")
    return matmul_peak_flops(device, "bf16" if has_fast_bf16(device) else "fp32")


def steady(blueprint: Blueprint, batches: int) -> Blueprint:
    """The blueprint at one context all the time, so that all steps cost the same, of so many batches each."""
    tokens = batches * blueprint.settled()[1]
    learning = blueprint.learning.model_copy(update={"short_context": 0.0, "batch_tokens": tokens})
    return blueprint.model_copy(update={"learning": learning})


def train_watched(
    go: Go,
    shards: str,
    folder: str,
    seconds: float,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    batches: int = 1,
    checkpoint_seconds: float | None = None,
) -> dict[str, Any]:
    """How fast one training goes once it has settled, and the peak of its core, measured around it."""
    transformers_logging.set_verbosity_error()
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    if world_size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{place / 'meeting'}", rank=rank, world_size=world_size
        )
    context = StallContext(
        folder=place, rank=rank, world_size=world_size, checkpoint_seconds=checkpoint_seconds
    )
    data = Slice(Shards(Path(shards)), "train")
    blueprint = steady(our_blueprint(seed), batches)
    go()
    peak = peak_flops()
    began = time.perf_counter()
    _, model = train(blueprint, data, Wall(time.time() + seconds), context)
    took = time.perf_counter() - began
    if world_size > 1:
        dist.destroy_process_group()
    return {
        "tokens_per_second": settled_speed(place / "journal.jsonl") if rank == 0 else 0.0,
        "flops_per_token": flops_per_token(model, CONTEXT),
        "peak_flops": max(peak, peak_flops()),
        "stalled_seconds": context.stalled,
        "saves": context.saves,
        "seconds": took,
    }


def settled_speed(journal: Path) -> float:
    """Tokens a second of all ranks together, by the clock on the wall, after the training settled."""
    steps = [event for event in read_journal(journal) if event["event"] == "step"]
    first = steps[int(SETTLING * (len(steps) - 1))]
    if first is steps[-1]:
        raise ValueError("too short a training to tell its speed: give it more --seconds")
    return float((steps[-1]["tokens"] - first["tokens"]) / (steps[-1]["time"] - first["time"]))
