"""Whether a model fits into memory, said before it is trained."""

import itertools
import math
from collections.abc import Sequence

import psutil
import ray
import torch

from tasks.artifacts import InputError
from tasks.calibrate import at_depth
from tasks.cluster import Compute
from tasks.ray_session import on_cluster
from training.blueprint import Blueprint
from training.footprint import training_bytes
from training.model import has_fast_bf16

FILLED = 0.6  # of memory, by what is counted; the framework takes more, and Ray ends workers at 95 %
MOMENTS_BYTES = {"muon": 4, "sgd": 4, "rmsprop": 4}  # a weight; Adam and its kin keep two moments


def depths_that_fit(base: Blueprint, depths: Sequence[int], device: str, there: float) -> tuple[int, ...]:
    """Those of rising `depths` that `there` bytes hold; all, where the depth is given and fits.

    Raises InputError, with the numbers, where nothing fits, or a checkpoint does not fit the data.
    """
    asked = base.model.settled_depth()
    try:
        refuse_too_large(at_depth(base, asked or depths[0]), device, there)
    except InputError:
        raise
    except ValueError as problem:  # of vocabulary, positions or labels
        raise InputError(str(problem)) from None
    if asked:
        return tuple(depths)
    fits = (least_bytes(at_depth(base, depth), device) <= there for depth in depths)
    return tuple(depth for depth, fit in zip(depths, itertools.takewhile(bool, fits), strict=False) if fit)


def least_bytes(blueprint: Blueprint, device: str, rows: int = 1) -> int:
    """Memory that a worker needs with so many rows at once; one, as the micro-batch halves down to that."""
    model = blueprint.model.sketch(blueprint.shape(device))
    learning = blueprint.learning
    halved = learning.precision == "auto" and has_fast_bf16(torch.device(device))
    return training_bytes(
        model,
        rows,
        blueprint.settled()[0],
        state_bytes=MOMENTS_BYTES.get(learning.optimizer.kind, 8),
        half_precision=halved or learning.precision in ("bf16", "fp16"),
        checkpointing=learning.activation_checkpointing,
    )


def micro_batch(blueprint: Blueprint, workers: int, device: str, there: float) -> int | None:
    """Tokens that a worker takes at once, where `there` bytes do not hold its whole share of a batch."""
    context, batch = blueprint.settled()
    rows = whole = max(1, batch // context // workers)
    while rows > 1 and least_bytes(blueprint, device, rows) > FILLED * there:
        rows = math.ceil(rows / 2)
    return None if rows == whole else rows * context


def memory_bytes(compute: Compute, workers: int) -> float:
    """Memory that a worker may take: its part of what is free, or its whole GPU."""
    if compute.on_gpu() and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    if on_cluster():
        return float(ray.cluster_resources().get("memory", math.inf)) / workers
    return float(psutil.virtual_memory().available) / workers


def refuse_too_large(blueprint: Blueprint, device: str, there: float) -> None:
    """Raises InputError, with the numbers, where a worker has not the bytes that training takes at least."""
    needed = least_bytes(blueprint, device)
    if needed > there:
        raise InputError(
            f"the model cannot fit: training it takes at least {needed / 1e9:,.1f} GB a worker (weights, gradients,"
            f" optimizer state, one row of activations), and each has {there / 1e9:,.1f} GB: choose a smaller"
            " model or learning.context, fewer compute.workers, or learning.activation_checkpointing"
        )
