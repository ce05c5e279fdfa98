"""What runs on a bare worker, under Ray Train or without: one training, described by an assignment."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from training.blueprint import Blueprint
from training.budget import AnyClock, Wall, matmul_peak_flops
from training.context import Context
from training.data import Sample, Shards, Slice
from training.held_out import held_out_sample, score_in_time, write_scores
from training.loop import Summary, train
from training.metrics import Floats, Ids
from training.model import Precision, autocast, has_fast_bf16
from training.objectives import CausalLanguageModel, MaskedLanguageModel
from training.pretrained import load_saved
from training.watch import Watch

STOP = "stop"  # in a training's folder: end early
LATENCY_PASSES = 9


@dataclass(frozen=True)
class Assignment:
    """One training: what to learn, from which data, until when, and where to write it down."""

    folder: Path
    blueprint: Blueprint
    shards: Path
    clock: AnyClock
    without_fold: int | None = None
    naive: bool = False  # folds that ignore near-duplicates, see training.data
    looks: tuple[float, ...] = (1.0,)
    watched_tokens: int = 16_384
    held_out_tokens: int = 0  # of the fold left out, scored afterwards document by document
    scored_by: float | None = None  # Unix time; as many documents as can be scored until then
    checkpoint_seconds: float | None = None
    pause_at: float = 1.0  # progress after which it ends early, with a checkpoint where it keeps any
    peak_flops: float | None = None  # of one worker's matrix products; see training.budget
    measure_latency: bool = False
    keep_model: bool = False
    device: str = "cpu"
    threads: int = 1
    least_seconds: float = 0.0  # that it trains, however late it starts; an untrained model helps nobody


@dataclass(frozen=True)
class Outcome:
    """What came of an assignment; `nats` and `weight` are those of the fold left out."""

    summary: Summary
    nats: float = 0.0
    weight: float = 0.0
    documents: int = 0
    latency_ms: float | None = None  # of one row of a full context, forward only


def carry_out(assignment: Assignment, rank: int = 0, world_size: int = 1) -> Outcome:
    """Trains as assigned; a file `stop` in the folder ends it early, with a checkpoint where it keeps any.

    So does SIGTERM in a process of its own, where the training keeps checkpoints.
    """
    with asked_to_end(assignment) as asked:
        return _carry_out(assignment, rank, world_size, asked)


@contextmanager
def asked_to_end(assignment: Assignment) -> Iterator[Callable[[], bool]]:
    """Says whether somebody asked for an early end: by SIGTERM, if this is the main thread, or by the file `stop`."""
    stop, asked = assignment.folder / STOP, threading.Event()
    ours = assignment.checkpoint_seconds is not None and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set()) if ours else None
    try:
        yield lambda: asked.is_set() or stop.exists()
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def _carry_out(assignment: Assignment, rank: int, world_size: int, asked: Callable[[], bool]) -> Outcome:
    torch.set_num_threads(assignment.threads)
    blueprint, shards = assignment.blueprint, Shards(assignment.shards)
    context = Context(
        folder=assignment.folder,
        rank=rank,
        world_size=world_size,
        device=torch.device(assignment.device),
        checkpoint_seconds=assignment.checkpoint_seconds,
        peak_flops=assignment.peak_flops,
        stop_asked=asked,
        pause_at=assignment.pause_at,
    )
    watch = (
        Watch(Slice(shards, "validation"), assignment.watched_tokens, assignment.looks)
        if assignment.looks
        else None
    )
    data = Slice(shards, "train", without_fold=assignment.without_fold, naive=assignment.naive)
    clock = assignment.clock
    if assignment.least_seconds and isinstance(clock, Wall):
        clock = replace(clock, deadline=max(clock.deadline, time.time() + assignment.least_seconds))
    summary, model = train(blueprint, data, clock, context, watch)
    if assignment.keep_model and rank == 0 and not summary.stopped:
        keep_model(model, assignment.shards, assignment.folder / "model", blueprint.settled()[0])
    if assignment.without_fold is None or not assignment.held_out_tokens or summary.stopped:
        return Outcome(
            summary, latency_ms=latency_ms(model, blueprint) if assignment.measure_latency else None
        )
    return judge_fold(assignment, summary, model, context.device)


def latency_ms(model: torch.nn.Module, blueprint: Blueprint) -> float:
    """The median time of a forward pass over one row of a full context, in milliseconds."""
    device = next(model.parameters()).device
    row_BT = torch.full((1, blueprint.settled()[0]), blueprint.start_token, device=device)
    times = []
    with torch.inference_mode(), autocast(device, blueprint.learning.precision)():
        for _ in range(1 + LATENCY_PASSES):
            began = time.perf_counter()
            model(input_ids=row_BT).logits.float().sum().item()  # which waits for a GPU
            times.append(1000 * (time.perf_counter() - began))
    return float(np.median(times[1:]))


def judge_fold(
    assignment: Assignment, summary: Summary, model: torch.nn.Module, device: torch.device
) -> Outcome:
    """Scores documents of the fold left out, in the time that there is, and writes each one's score to SCORES."""
    blueprint, objective = assignment.blueprint, assignment.blueprint.objective
    context = blueprint.settled()[0]
    left_out = Slice(
        Shards(assignment.shards), "train", only_fold=assignment.without_fold, naive=assignment.naive
    )
    read_whole = context if objective.head == "classification" else None
    rows, sample = held_out_sample(left_out, assignment.held_out_tokens, read_whole)
    precise = autocast(device, blueprint.learning.precision)

    def score(part: Sample) -> Floats:
        return objective.score(model, part, context, blueprint.mask_token, precise)

    nats = score_in_time(score, sample, assignment.scored_by)
    weights = sample.weights[: len(nats)]
    write_scores(assignment.folder, rows[: len(nats)], nats, weights)
    return Outcome(summary, float(nats.sum()), float(weights.sum()), len(nats))


def keep_model(model: torch.nn.Module, shards: Path, folder: Path, context: int) -> None:
    """Writes the Hugging Face folder, weights and tokenizer, so that it is there whole or not at all.

    The tokenizer says the context, too: configs of recurrent models do not.
    """
    draft = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)  # type: ignore[operator]
    shutil.copytree(shards / "tokenizer", draft, dirs_exist_ok=True)
    about = draft / "tokenizer_config.json"
    if about.exists():
        about.write_text(json.dumps({**json.loads(about.read_text()), "model_max_length": context}, indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


@contextmanager
def in_group(meeting: Path, rank: int, world_size: int, device: str = "cpu") -> Iterator[None]:
    """Within, this process is one of a group, whose ranks meet at the new file `meeting`."""
    if world_size == 1:
        yield
        return
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def carry_out_in_group(assignment: Assignment, rank: int, world_size: int, meeting: Path, log: Path) -> None:
    """One rank of a training, in a process of its own, which writes to `log`; see `in_group`."""
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    with in_group(meeting, rank, world_size, assignment.device):
        carry_out(assignment, rank, world_size)


@lru_cache(maxsize=1)
def opened(
    folder: Path, objective: CausalLanguageModel | MaskedLanguageModel, device: str
) -> torch.nn.Module:
    """The language model of a Hugging Face folder, to score with; a worker keeps the last one."""
    model: torch.nn.Module = load_saved(folder, objective.head).to(device)
    return model


def score_windows(
    folder: Path,
    objective: CausalLanguageModel | MaskedLanguageModel,
    documents: list[Ids],
    context: int,
    mask_token: int | None,
    device: str,
    windows: slice,
    rank: int,
    world_size: int,
) -> Floats:
    """This worker's part of the documents' nats, see `training.metrics`; the sum of all parts is the score."""
    torch.set_num_threads(1)
    model = opened(folder, objective, device)
    sample = Sample(documents, np.full(len(documents), -1), np.ones(len(documents)))
    precise = autocast(torch.device(device))
    return objective.score(model, sample, context, mask_token, precise, windows_scored=windows)


def report_ready(rank: int, world_size: int) -> int:
    """The process id; who can say that has imported everything."""
    return os.getpid()


def report_peak_flops(device: str, precision: Precision, rank: int, world_size: int) -> float:
    """What this worker's matrix products reach, in FLOP/s; all workers are asked at once."""
    torch.set_num_threads(1)
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(torch.device(device)) else "fp32"
    return matmul_peak_flops(device, precision)
