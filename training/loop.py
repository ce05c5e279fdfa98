"""The one function that trains: trial, fold and final run are this, with other arguments.

Shapes: B rows of a batch, T positions of the context.
"""

import resource
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from training.architectures import check_packing
from training.averages import Average
from training.batch import Batch
from training.blueprint import Blueprint
from training.budget import Clock, utilisation
from training.context import Context
from training.data import Slice
from training.metrics import Precise
from training.model import autocast, count_parameters, flops_per_token, narrow_residuals
from training.parallel import Shared
from training.state import Best, Position, State
from training.watch import Watch, choose, look_at

MOST_ROLLED_BACK = 3  # times, before a training is given up


@dataclass(frozen=True)
class Summary:
    """How a training went."""

    steps: int
    tokens: int
    parameters: int
    training_seconds: float  # inside optimizer steps, this process
    loss_nats: float  # mean over the last tenth of the steps
    validation_bits: float | None  # of the weights that were kept; see the objective for what it is per
    stopped: bool  # ended early, as it was asked to
    kept: str = "last"  # or "average", or "best", where those scored better


def train(
    blueprint: Blueprint, slice_: Slice, clock: Clock, context: Context, watch: Watch | None = None
) -> tuple[Summary, PreTrainedModel]:
    """Trains a model as the blueprint says until the clock ends or the context asks to stop.

    Resumes from the newest good checkpoint in the context's folder. A step whose loss or gradient is
    out of line is skipped; where that does not help, the weights go back to the last checkpoint, and the
    data goes on. Raises ValueError where blueprint and workers do not fit, FloatingPointError where the
    loss stays out of line.
    """
    learning, objective, device = blueprint.learning, blueprint.objective, context.device
    full_length, batch_tokens = blueprint.settled()
    model = blueprint.build(device.type).to(device)
    check_packing(model.config.model_type, learning.packing)
    narrow_residuals(model)
    shared = learning.strategy.share(model, context.rank, context.world_size, learning.compile == "on")
    optimizers = shared.optimizers(learning.optimizer, exact=learning.precision == "fp32")
    full_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    feed = objective.feed(slice_, blueprint.facts())
    precise = autocast(device, learning.precision)
    state = State(
        model=model,
        optimizers=optimizers,
        scaler=torch.amp.GradScaler(device.type, enabled=learning.precision == "fp16"),
        average=Average(model, learning.average) if learning.average else None,
        best=Best(learning.patience) if learning.patience else None,
    )
    fingerprint = blueprint.fingerprint()
    at = context.restore(fingerprint, state) or Position(0, 0, 0, 0.0, fingerprint)
    lengths = (full_length // 2, full_length)
    flops = {length: flops_per_token(model, length, objective.rate) for length in lengths}
    watched = watch.sample(full_length, objective.head == "classification") if watch else None
    progress, stopped, score = clock.progress(at.step, at.tokens, at.used_seconds), False, None
    if at.step:
        context.record(
            {"event": "resumed", "step": at.step, "progress": progress, "seconds": at.used_seconds}
        )
    looks = [look for look in watch.at if look > progress or look == 1.0] if watch else []
    losses, training_seconds, saved = list[float](), at.used_seconds, time.monotonic()
    # Three or more addends round by their order, and DDP settles on its own only after a first pass.
    settling = shared.shares > 2
    shared.module.train()
    while progress < 1.0 and not stopped:
        started = time.perf_counter()
        before = progress
        length = full_length // 2 if progress < learning.short_context else full_length
        state.guard.expect(length)
        rows = rows_of(feed.source.rows_in(batch_tokens, length), shared.shares)
        batch = feed.batch(at.place, rows, length, shared.share, shared.shares)
        place, taken = feed.source.moved(at.place, rows, length)
        at = replace(at, step=at.step + 1, tokens=at.tokens + taken, place=place)
        dice = np.random.SeedSequence([blueprint.seed, at.step - 1, shared.share])
        for _ in range(2 if settling else 1):
            model.zero_grad(set_to_none=True)
            torch.manual_seed(int(dice.generate_state(1, np.uint64)[0] >> 1))  # of dropout
            nats = gradients(blueprint, shared, state, batch, context, precise, length, rows * length)
        settling = False
        now = clock.progress(at.step, at.tokens, at.used_seconds + time.perf_counter() - started)
        verdict: tuple[float, bool, bool] = (0.0, False, False)
        if context.rank == 0:
            stops = context.stops(now)
            verdict = (now, stops, context.is_due(saved, stops))
        # All that workers have to tell each other in a step: each such meeting waits for the slowest.
        nats, predicted, progress, *asked = context.sums(nats, batch.predicted(), *verdict)
        stopped, due = map(bool, asked)
        loss, predicted = nats / max(1.0, predicted), predicted / shared.ranks_of_a_share
        for optimizer in optimizers:
            state.scaler.unscale_(optimizer)
        weigh(model, rows * length / max(1.0, predicted))
        if learning.l1:
            pull_to_zero(model, learning.l1)
        norm = float(shared.clip(learning.gradient_norm))
        objection = state.guard.objection(loss, norm)
        factor = learning.schedule.rate(before)
        for optimizer, rates in zip(optimizers, full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            if objection is None:
                state.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        if state.scaler.is_enabled():
            state.scaler.update()
        if state.average:
            state.average.update(at.step)
        seconds = time.perf_counter() - started
        training_seconds += seconds
        at = replace(at, used_seconds=at.used_seconds + seconds)
        where = {"step": at.step, "tokens": at.tokens, "progress": progress, "seconds": at.used_seconds}
        context.record(
            {
                "event": "step",
                **where,
                "training_seconds": training_seconds,
                "loss": loss,
                "rate": factor,
                "gradient_norm": norm,
                "tokens_per_second": taken / seconds,
                "memory_gb": memory_gb(device),
            }
            | (
                {
                    "utilisation": utilisation(
                        flops[length], taken / seconds, context.peak_flops * context.world_size
                    )
                }
                if context.peak_flops
                else {}
            )
        )
        if objection is None:
            losses.append(loss)
        else:
            context.record({"event": "skipped", **where, "reason": objection})
            if state.guard.gives_up:
                give_way(state, at, objection, context, where)
        if watched and looks and progress >= looks[0]:
            looks = [look for look in looks if look > progress]
            began = time.perf_counter()
            score = look_at(blueprint, model, watched, context, precise)
            at = replace(at, used_seconds=at.used_seconds + time.perf_counter() - began)
            looked = {"seconds": at.used_seconds, "training_seconds": training_seconds, "bits": score}
            context.record({"event": "validation", **where, **looked})
            if state.best and state.best.look(score, model):
                context.record({"event": "stopped", **where, "reason": "patience is at its end"})
                progress = 1.0
        if due and progress < 1.0:
            context.save(at, state)
            saved = time.monotonic()
    kept, score = ("last", score) if stopped else choose(blueprint, state, watched, score, context, precise)
    context.close()
    tail = losses[-max(1, len(losses) // 10) :]
    summary = Summary(
        steps=at.step,
        tokens=at.tokens,
        parameters=count_parameters(model),
        training_seconds=training_seconds,
        loss_nats=float(np.mean(tail)) if tail else float("nan"),
        validation_bits=score,
        stopped=stopped,
        kept=kept,
    )
    return summary, shared.whole()


def gradients(
    blueprint: Blueprint,
    shared: Shared,
    state: State,
    batch: Batch,
    context: Context,
    precise: Precise,
    length: int,
    expected: int,
) -> float:
    """Leaves the gradient of the global loss, summed and divided by `expected`; returns this rank's sum in nats.

    To divide once, by a number that all ranks know, keeps micro-batches and ranks of unlike content from
    counting more; `weigh` makes it the mean. Where memory runs out, the micro-batch is halved, for good,
    and the step done again.
    """
    own_rows = len(batch.targets)
    while True:
        rows = min(own_rows, context.micro_rows or own_rows, _wanted_rows(blueprint, length, own_rows))
        try:
            total = torch.zeros((), device=context.device)
            for start in range(0, own_rows, rows):
                part = batch.part(slice(start, start + rows)).to(context.device)
                with shared.no_sync(last=start + rows >= own_rows), precise():
                    loss = blueprint.objective.loss_sum(
                        shared.module, part, blueprint.learning.label_smoothing
                    )
                    scaled = state.scaler.scale(loss * (shared.shares / expected))
                    scaled.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            return float(total)
        except (torch.OutOfMemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem) or rows == 1:
                raise
            context.halve(rows)
            if context.world_size > 1:
                raise  # the other ranks wait within a step; all start again, with the half
            state.model.zero_grad(set_to_none=True)


def _wanted_rows(blueprint: Blueprint, length: int, rows: int) -> int:
    micro = blueprint.learning.micro_batch_tokens
    return max(1, micro // length) if micro else rows


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out; on a CPU, torch has no type of its own for that."""
    return isinstance(problem, torch.OutOfMemoryError) or "can't allocate memory" in str(problem)


def weigh(model: nn.Module, factor: float) -> None:
    """Multiplies all gradients by this factor."""
    if factor != 1.0:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def pull_to_zero(model: nn.Module, weight: float) -> None:
    """Adds the gradient of `weight` times the sum of all matrices' absolute entries."""
    for parameter in model.parameters():
        if parameter.ndim >= 2 and parameter.grad is not None:
            parameter.grad.add_(parameter.detach().sign(), alpha=weight)


def give_way(state: State, at: Position, objection: str, context: Context, where: dict[str, float]) -> None:
    """After too many skipped steps: back to the last good weights, or, finite, on from here.

    Raises FloatingPointError where there is nothing to go back to, or going back did not help.
    """
    guard = state.guard
    rolled_back = guard.rolled_back + 1
    position = context.roll_back(at.fingerprint, state) if rolled_back <= MOST_ROLLED_BACK else None
    if position is None and ("nan" in objection or "inf" in objection or rolled_back > MOST_ROLLED_BACK):
        raise FloatingPointError(f"at step {at.step}: {objection}; lower the learning rate")
    state.guard.forget()
    state.guard.rolled_back = rolled_back
    if position is None:
        context.record({"event": "accepted", **where, "reason": f"the level has moved: {objection}"})
        return
    context.record(
        {"event": "rolled_back", **where, "reason": f"weights of step {position.step}: {objection}"}
    )
    context.save(at, state)


def rows_of(wanted: float, world_size: int) -> int:
    """Rows of a global batch: as many as fit, the same number on every rank, at least one each."""
    return max(1, int(wanted) // world_size) * world_size


def memory_gb(device: torch.device) -> float:
    """The most memory held so far: the process' on a CPU, the allocator's on a GPU, in 1e9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
