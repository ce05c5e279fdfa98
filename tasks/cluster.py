"""The machine or cluster: what there is to train on."""

from typing import Literal

import ray
import torch
from pydantic import Field

from tasks.artifacts import InputError
from tasks.ray_session import on_cluster, start_ray
from tasks.spread import cores
from training.config import Section


class Compute(Section):
    """What the training runs on."""

    workers: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Processes that train side by side. Empty: one for each GPU, else for each core.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto takes GPUs where there are any. CPU training wants a small model."
    )

    def on_gpu(self) -> bool:
        """Whether workers get a GPU each."""
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())

    @property
    def device_type(self) -> Literal["cpu", "cuda"]:
        """As torch names what workers train on."""
        return "cuda" if self.on_gpu() else "cpu"

    def count(self) -> int:
        """Workers, settled. Raises InputError where the machine or cluster has not that many cores or GPUs."""
        where = "this machine has"
        there = torch.cuda.device_count() if self.on_gpu() else cores()
        if on_cluster():
            start_ray()
            where = "the cluster at RAY_ADDRESS has"
            there = int(ray.cluster_resources().get("GPU" if self.on_gpu() else "CPU", 0))
        unit = "GPUs" if self.on_gpu() else "cores"
        if self.workers and self.workers > there:
            remedy = f"ask for at most {there}" if there else "use compute.device=cpu"
            raise InputError(f"compute.workers is {self.workers}, but {where} {there} {unit}: {remedy}")
        if self.device == "cuda" and not there:
            raise InputError(f"compute.device is cuda, but {where} no GPU: use auto or cpu")
        return self.workers or max(1, there)
