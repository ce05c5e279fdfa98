"""Whether a model fits into memory, said before it is trained."""

import itertools
import math
import os
from collections.abc import Sequence

import psutil
import ray
import torch

from tasks.artifacts import InputError
from tasks.calibrate import at_depth
from tasks.cluster import Compute
from training.blueprint import Blueprint
from training.footprint import training_bytes
from training.model import has_fast_bf16

MOMENTS_BYTES = {"muon": 4, "sgd": 4, "rmsprop": 4}  # a weight; Adam and its kin keep two moments


def depths_that_fit(base: Blueprint, depths: Sequence[int], device: str, there: float) -> tuple[int, ...]:
    """The depths that a worker's memory holds. Raises InputError, with the numbers, where it holds none."""
    asked = base.model.settled_depth()
    refuse_too_large(at_depth(base, asked or depths[0]), device, there)
    return tuple(
        itertools.takewhile(
            lambda depth: asked or least_bytes(at_depth(base, depth), device) <= there, depths
        )
    )


def least_bytes(blueprint: Blueprint, device: str) -> int:
    """Memory that a worker needs at least, with one row at once: the micro-batch halves down to that."""
    model = blueprint.model.sketch(blueprint.shape(device))
    learning = blueprint.learning
    halved = learning.precision == "auto" and has_fast_bf16(torch.device(device))
    return training_bytes(
        model,
        1,
        blueprint.settled()[0],
        state_bytes=MOMENTS_BYTES.get(learning.optimizer.kind, 8),
        half_precision=halved or learning.precision in ("bf16", "fp16"),
        checkpointing=learning.activation_checkpointing,
    )


def memory_bytes(compute: Compute, workers: int) -> float:
    """Memory that a worker may take: its part of what is free, or its whole GPU."""
    if compute.on_gpu() and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    if os.environ.get("RAY_ADDRESS"):
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
