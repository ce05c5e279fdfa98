"""One training of each system at byte level, as jobs of `tests.benchmarks.lanes`."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.benchmarks.byte_level import START, VOCABULARY, documents
from tests.benchmarks.lanes import Go
from training.blueprint import Blueprint, Learning
from training.budget import Wall
from training.data import Shards
from training.journal import read_journal
from training.metrics import score_documents
from training.model import Scratch, width_of
from training.units import bits

DEPTH, CONTEXT, BATCH_TOKENS = 3, 256, 2048  # of our own model; depth measured, see DECISIONS
FAMILY = "nanochat"  # in which the figures of the README were measured
LOOKS = 36  # at most, evenly spread over the time
EARLY = 1 / 3  # of the time, in which all looks are taken; after it every third
TRAINER_RATE, TRAINER_DROPOUT, TRAINER_ROWS = 1e-3, 0.0, 8  # nanoGPT's rate, 20 times the Trainer's own
ALL_OF_IT = 1 << 40  # tokens


def our_blueprint(seed: int) -> Blueprint:
    """What we train at byte level: the one place to change it."""
    learning = Learning(context=CONTEXT, batch_tokens=BATCH_TOKENS)
    return Blueprint(
        model=Scratch(family=FAMILY, depth=DEPTH),
        learning=learning,
        vocabulary=VOCABULARY,
        start_token=START,
        seed=seed,
    )


def looks() -> list[float]:
    """The progress at which ours is looked at; its looks cost training time, so later ones are fewer."""
    every = [(number + 1) / LOOKS for number in range(LOOKS)]
    return [look for number, look in enumerate(every) if look <= EARLY or number % 3 == 2]


def train_ours(go: Go, shards: str, folder: str, seconds: float, seed: int, curve: bool) -> dict[str, Any]:
    """Our own training, through the door that the product's workers use; the looks count as its time."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from training.worker import Assignment, carry_out

    disable_progress_bar()
    place, blueprint = Path(folder), our_blueprint(seed)
    go()
    outcome = carry_out(
        Assignment(
            folder=place,
            blueprint=blueprint,
            shards=Path(shards),
            clock=Wall(time.time() + seconds),
            looks=tuple(looks()) if curve else (),
            watched_tokens=ALL_OF_IT,
            keep_model=True,
            threads=torch.get_num_threads(),
        )
    )
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    events = read_journal(place / "journal.jsonl")
    seen = [(event["seconds"], event["bits"]) for event in events if event["event"] == "validation"]
    summary = outcome.summary
    return {
        "system": "ours",
        "seed": seed,
        "bits": held_out(model, Shards(Path(shards)), CONTEXT),
        "curve": seen,
        "seconds": seconds,
        "steps": summary.steps,
        "tokens": summary.tokens,
        "parameters": summary.parameters,
    }


def train_nanogpt(go: Go, shards: str, seconds: float, seed: int) -> dict[str, Any]:
    """nanoGPT's training; looking at it costs it nothing."""
    from tests.benchmarks import nanogpt_baseline as nanogpt

    opened = Shards(Path(shards))
    ids = torch.from_numpy(opened.ids("train").astype("int64"))
    looked_at, size = documents(opened, "validation")

    def look(model: nn.Module) -> float:
        return bits(float(score_documents(model, looked_at, nanogpt.CONTEXT).sum()), size)

    go()
    done = nanogpt.train_nanogpt(ids, VOCABULARY, seconds, seed, look, seconds / LOOKS)
    return {
        "system": "nanogpt",
        "seed": seed,
        "bits": held_out(done.model, opened, nanogpt.CONTEXT),
        "curve": done.curve,
        "seconds": done.seconds,
        "steps": done.iterations,
        "tokens": done.iterations * nanogpt.ROWS * nanogpt.CONTEXT,
        "parameters": sum(p.numel() for p in done.model.parameters()),
    }


def train_trainer(
    go: Go,
    shards: str,
    seconds: float,
    seed: int,
    rate: float = TRAINER_RATE,
    dropout: float = TRAINER_DROPOUT,
    rows: int = TRAINER_ROWS,
) -> dict[str, Any]:
    """The Trainer's training: GPT-2 of our width, context and about our size, on shuffled rows."""
    from transformers import set_seed

    from tests.benchmarks.timed_trainer import gpt2_like, train_on_time
    from tests.benchmarks.trainer_baseline import Rows

    opened, width = Shards(Path(shards)), width_of(DEPTH)
    set_seed(seed)
    ours = 12 * DEPTH * width**2 + 2 * VOCABULARY * width
    model = gpt2_like(VOCABULARY, width, CONTEXT, START, ours, dropout)
    go()
    done = train_on_time(model, Rows(opened, CONTEXT), seconds, seed, rate, rows)
    looked_at, size = documents(opened, "validation")
    last = bits(float(score_documents(model, looked_at, CONTEXT).sum()), size)
    return {
        "system": "trainer",
        "seed": seed,
        "bits": held_out(model, opened, CONTEXT),
        "curve": [(done.seconds, last)],
        "seconds": done.seconds,
        "steps": done.steps,
        "tokens": done.steps * rows * CONTEXT,
        "parameters": model.num_parameters(),
    }


def held_out(model: nn.Module, shards: Shards, context: int) -> float:
    """Bits per byte of the held-out documents in fp32, each from its opening mark; the one definition for all."""
    tested, size = documents(shards, "test")
    return bits(float(score_documents(model, tested, context).sum()), size)
