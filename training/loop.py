"""The one function that trains: trial, fold and final run are this, with other arguments.

Shapes: B rows of a batch, T positions of the context.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from training.blueprint import Blueprint
from training.budget import Clock
from training.checkpoint import Position
from training.context import Context
from training.data import Slice, Stream
from training.metrics import bits_per_byte, score_documents
from training.model import autocast, count_parameters

Precise = Callable[[], AbstractContextManager[object]]
RECORD_SECONDS = 0.25  # between two step events


@dataclass(frozen=True)
class Watch:
    """What a training looks at on its way: a fixed sample of pieces of held-out text."""

    slice: Slice
    tokens: int = 16_384
    at: tuple[float, ...] = (1.0,)  # in progress, rising

    def pieces(self, context: int, rank: int, world_size: int) -> tuple[list[np.ndarray], float]:
        """This rank's pieces of `context` tokens, each scored alone, and the bytes they stand for."""
        documents, sizes = self.slice.texts()
        cut = [
            ids[at : at + context + 1] for ids in documents for at in range(0, max(1, len(ids) - 1), context)
        ]
        cut = [piece for piece in cut if len(piece) > 1]
        chosen = np.random.default_rng(0).permutation(len(cut))[: max(1, self.tokens // context)]
        bytes_per_token = float(sizes.sum()) / max(1, sum(len(ids) - 1 for ids in documents))
        mine = [cut[number] for number in sorted(chosen)][rank::world_size]
        return mine, bytes_per_token * sum(len(piece) - 1 for piece in mine)


@dataclass(frozen=True)
class Summary:
    """How a training went."""

    steps: int
    tokens: int
    parameters: int
    training_seconds: float  # inside optimizer steps, this process
    loss_nats: float  # mean over the last tenth of the steps
    validation_bits_per_byte: float | None
    stopped: bool  # ended early, as it was asked to


def train(
    blueprint: Blueprint, slice_: Slice, clock: Clock, context: Context, watch: Watch | None = None
) -> tuple[Summary, PreTrainedModel]:
    """Trains a model as the blueprint says until the clock ends or the context asks to stop.

    Resumes from the newest good checkpoint in the context's folder. Raises ValueError where
    blueprint and workers do not fit, FloatingPointError where the loss is not finite.
    """
    learning, device = blueprint.learning, context.device
    if learning.context is None or learning.batch_tokens is None:
        raise ValueError(
            "learning.context and learning.batch_tokens are not settled: plan first, or set them"
        )
    model = blueprint.model.build(
        blueprint.vocabulary, learning.context, blueprint.start_token, blueprint.seed
    )
    model.to(device)
    parallel = (
        DistributedDataParallel(model, gradient_as_bucket_view=True) if context.world_size > 1 else model
    )
    optimizers = learning.optimizer.build(model)
    full_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    stream = Stream(slice_, blueprint.seed, block=learning.context)
    precision = autocast(device, learning.precision)
    fingerprint = blueprint.fingerprint()

    at = context.restore(fingerprint, model, optimizers) or Position(0, 0, 0.0, fingerprint)
    looks = list(watch.at) if watch else []
    progress, stopped, score, losses = clock.progress(at.tokens, at.used_seconds), False, None, []
    looks = [look for look in looks if look > progress or look == 1.0]
    training_seconds, recorded, saved = at.used_seconds, 0.0, time.monotonic()
    parallel.train()
    while progress < 1.0 and not stopped:
        started = time.perf_counter()
        length = learning.context // 2 if progress < learning.short_context else learning.context
        rows = rows_of(learning.batch_tokens, length, context.world_size)
        inputs_BT, targets_BT = stream.batch(at.tokens, rows, length, context.rank, context.world_size)
        with precision():
            loss = blueprint.objective.loss_nats(parallel, inputs_BT.to(device), targets_BT.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), learning.gradient_norm)
        factor = learning.schedule.rate(progress)
        for optimizer, rates in zip(optimizers, full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(
                f"the loss is {losses[-1]} at step {at.step + 1}: lower the learning rate"
            )
        seconds = time.perf_counter() - started
        training_seconds += seconds
        at = replace(
            at, step=at.step + 1, tokens=at.tokens + rows * length, used_seconds=at.used_seconds + seconds
        )
        progress, stopped = context.agree(clock.progress(at.tokens, at.used_seconds), context.should_stop())

        if time.monotonic() - recorded > RECORD_SECONDS or progress >= 1.0:
            recorded = time.monotonic()
            context.record(
                {
                    "event": "step",
                    "step": at.step,
                    "tokens": at.tokens,
                    "progress": progress,
                    "seconds": at.used_seconds,
                    "training_seconds": training_seconds,
                    "loss": losses[-1],
                    "rate": factor,
                    "gradient_norm": float(norm),
                    "tokens_per_second": rows * length / seconds,
                }
            )
        if watch and looks and progress >= looks[0]:
            looks = [look for look in looks if look > progress]
            began = time.perf_counter()
            score = look_at(watch, model, learning.context, context, precision)
            at = replace(at, used_seconds=at.used_seconds + time.perf_counter() - began)
            context.record(
                {
                    "event": "validation",
                    "step": at.step,
                    "tokens": at.tokens,
                    "progress": progress,
                    "seconds": at.used_seconds,
                    "bits_per_byte": score,
                }
            )
        if context.checkpoint_seconds is not None and progress < 1.0:
            due = time.monotonic() - saved > context.checkpoint_seconds
            _, due = context.agree(progress, due)
            if due:
                context.save(at, model, optimizers)
                saved = time.monotonic()
    context.close()
    tail = losses[-max(1, len(losses) // 10) :]
    summary = Summary(
        steps=at.step,
        tokens=at.tokens,
        parameters=count_parameters(model),
        training_seconds=training_seconds,
        loss_nats=float(np.mean(tail)) if tail else float("nan"),
        validation_bits_per_byte=score,
        stopped=stopped,
    )
    return summary, model


def rows_of(batch_tokens: int, length: int, world_size: int) -> int:
    """Rows of a global batch: as many as fit, the same number on every rank, at least one each."""
    return max(1, batch_tokens // length // world_size) * world_size


def look_at(watch: Watch, model: PreTrainedModel, length: int, context: Context, precision: Precise) -> float:
    """Bits per byte over the watch's pieces, shared among the ranks."""
    pieces, size_bytes = watch.pieces(length, context.rank, context.world_size)
    nats = score_documents(model, pieces, length, precision) if pieces else np.zeros(1)
    totals = torch.tensor([float(nats.sum()), size_bytes], dtype=torch.float64)
    if context.world_size > 1:
        dist.all_reduce(totals)
    return bits_per_byte(float(totals[0]), float(totals[1]))
