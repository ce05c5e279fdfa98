"""Strategies: how several workers share one training, so that it ends as it would have alone.

Every strategy turns a model into `Shared`, which is all that the loop deals with. Checkpoints hold whole
tensors (see `training/parts.py`), so that they fit any strategy and any number of workers.
"""

import inspect
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel

from training.config import AnyOf, Choice
from training.division import divide
from training.optimizers import LAMB, Optimizer, Optimizers
from training.parts import gathered, is_cut, own_part, pieces_of


@dataclass
class Shared:
    """A model as one rank of a training has it.

    `module` is what a training step calls; `model` holds this rank's parameters. The batch is cut
    into `shares`, of which this rank takes number `share`. Gradients are averaged over the shares,
    so a loss is summed, divided by the global count and multiplied by `shares`.
    """

    model: PreTrainedModel
    module: nn.Module
    shares: int = 1
    share: int = 0
    in_part: list[str] = field(default_factory=list)  # parameters whose gradient each rank has a part of
    tensor_mesh: DeviceMesh | None = None

    @property
    def ranks_of_a_share(self) -> int:
        """How many ranks work on the same rows."""
        return dist.get_world_size() // self.shares if self.tensor_mesh is not None else 1

    def optimizers(self, optimizer: Optimizer, exact: bool = False) -> Optimizers:
        """The optimizers over this rank's parameters; warns where the strategy makes them slow.

        If `exact`, none of them rounds below fp32. Raises ValueError where an optimizer cannot work on parts.
        """
        built, cut = optimizer.build(self.model), is_cut(self.model)
        if cut and isinstance(optimizer, LAMB):
            raise ValueError(
                "lamb wants the norms of whole matrices, which this strategy cuts: set learning.optimizer to "
                "adamw, or learning.strategy to ddp"
            )
        for one in built:
            if isinstance(one, torch.optim.Muon) and (cut or exact):
                mode = _WholeMatrices(exact)
                one.register_step_pre_hook(lambda *_, mode=mode: mode.__enter__() and None)
                one.register_step_post_hook(lambda *_, mode=mode: mode.__exit__(None, None, None))
            if isinstance(one, torch.optim.Muon) and cut:
                warnings.warn(
                    "Muon is slow where matrices are cut: every worker puts each together, and does the "
                    "work of all; choose adamw, or the strategy ddp where the model fits one worker",
                    stacklevel=2,
                )
            if isinstance(one, torch.optim.Muon) and isinstance(self.module, DistributedDataParallel):
                divide(one)
            if self.tensor_mesh is not None:
                # torch fuses no list of whole tensors and parts, nor of parts from two meshes.
                for group in one.param_groups:
                    group.update({name: False for name in ("fused", "foreach") if name in group})
        return built

    def no_sync(self, last: bool) -> AbstractContextManager[None]:
        """Around all but the last backward pass of a step, DDP keeps gradients to itself.

        Parts are always summed at once: to wait would take the memory of whole gradients.
        """
        if isinstance(self.module, DistributedDataParallel) and not last:
            waiting: AbstractContextManager[None] = self.module.no_sync()
            return waiting
        return nullcontext()

    def clip(self, most: float) -> torch.Tensor:
        """Completes this step's gradients, scales them down to a norm of `most` and returns the norm before.

        The norm is that of all parameters, whole. Once a step, after the last backward pass.
        """
        if self.tensor_mesh is not None:
            for name in self.in_part:
                dist.all_reduce(own_part(_gradient(self.model, name)), group=self.tensor_mesh.get_group())
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not any(isinstance(gradient, DTensor) for gradient in gradients):
            return nn.utils.clip_grad_norm_(self.model.parameters(), most)
        with torch.no_grad():
            world_size = dist.get_world_size()
            squares = [
                torch.linalg.vector_norm(own_part(gradient), dtype=torch.float64).square()
                / (world_size // pieces_of(gradient))
                for gradient in gradients
            ]
            square = torch.stack(squares).sum()
            dist.all_reduce(square)
            norm = square.sqrt().float()
            scale = (most / (norm + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                own_part(gradient).mul_(scale)
        return norm

    def whole(self) -> PreTrainedModel:
        """On rank 0 a model of whole weights, in main memory; elsewhere, and if nothing is cut, the model.

        All ranks must call it. The one that is returned shares no work: save it, do not train it.
        """
        if not is_cut(self.model):
            return self.model
        keep = dist.get_rank() == 0
        weights = gathered(self.model.state_dict(), keep)
        if not keep:
            return self.model
        copy: PreTrainedModel = type(self.model)(self.model.config)
        copy.load_state_dict(weights)
        return copy.train(self.model.training)


class _WholeMatrices(TorchFunctionMode):
    """Within a step of torch's Muon, its conversion of a matrix to bf16 puts the matrix together first.

    torch's own way through parts talks to the other ranks in each of its products. Where it should be
    exact, the conversion is left out, as rounding to bf16 makes equal runs drift apart: by 4e-4 of the
    loss within 40 steps, against 1e-6.
    """

    def __init__(self, exact: bool) -> None:
        super().__init__()
        self._exact = exact

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.Tensor.bfloat16:
            return func(*args, **(kwargs or {}))
        matrix = args[0]
        if isinstance(matrix, DTensor):
            matrix = matrix.redistribute(placements=[Replicate()] * matrix.device_mesh.ndim)
        return matrix.clone() if self._exact else matrix.bfloat16()


class Single(Choice):
    """One worker."""

    kind: Literal["single"] = "single"

    def check(self, world_size: int, config: PreTrainedConfig | None = None) -> None:
        """Raises ValueError where there are several workers."""
        if world_size > 1:
            raise ValueError(
                f"learning.strategy is single, but there are {world_size} workers: "
                "set compute.workers to 1, or the strategy to ddp"
            )

    def share(
        self, model: PreTrainedModel, rank: int = 0, world_size: int = 1, compiled: bool = False
    ) -> Shared:
        """The model as it is."""
        self.check(world_size)
        return Shared(model, _called(model, compiled))


class DDP(Choice):
    """Each worker holds the whole model and learns from its share of the rows; fastest where it fits."""

    kind: Literal["ddp"] = "ddp"

    def check(self, world_size: int, config: PreTrainedConfig | None = None) -> None:
        """Any number of workers will do."""

    def share(self, model: PreTrainedModel, rank: int, world_size: int, compiled: bool = False) -> Shared:
        """The model, its gradients averaged while the backward pass goes on."""
        if world_size == 1:
            return Shared(model, _called(model, compiled))
        # Buffers are tables that never change; to send them round would be one more wait a step.
        # The keyword's name changed with torch 2.13.
        renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        unsent: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        module = DistributedDataParallel(_called(model, compiled), gradient_as_bucket_view=True, **unsent)
        return Shared(model, module, world_size, rank)


class FSDP(Choice):
    """Each worker holds a part of every weight, and borrows the rest layer by layer: for what one cannot hold."""

    kind: Literal["fsdp"] = "fsdp"

    def check(self, world_size: int, config: PreTrainedConfig | None = None) -> None:
        """Any number of workers will do."""

    def share(self, model: PreTrainedModel, rank: int, world_size: int, compiled: bool = False) -> Shared:
        """The model, cut layer by layer along the first dimension of each weight."""
        if world_size == 1:
            return Shared(model, _called(model, compiled))
        _cut_by_layers(model, init_device_mesh(model.device.type, (world_size,)))
        return Shared(model, _called(model, compiled), world_size, rank)


class TensorParallel(Choice):
    """Workers split the matrices of every layer and work on the same rows: for layers that one cannot hold.

    With more workers than `degree`, each group of `degree` takes its share of the rows, as with FSDP.
    """

    kind: Literal["tensor_parallel"] = "tensor_parallel"
    degree: int | None = Field(
        default=None,
        ge=2,
        le=64,
        description="Workers that split one matrix; the model's attention heads must divide by it. Empty: all.",
    )

    def check(self, world_size: int, config: PreTrainedConfig | None = None) -> None:
        """Raises ValueError where workers, heads or architecture cannot be split so."""
        degree = self.degree or world_size
        if world_size % degree:
            raise ValueError(
                f"learning.strategy.degree {degree} does not divide {world_size} workers: "
                f"choose a degree among {_divisors(world_size)}, or other compute.workers"
            )
        if config is None or degree == 1:
            return
        if not getattr(config, "base_model_tp_plan", None):
            raise ValueError(
                f"transformers has no tensor parallel plan for {config.model_type}: set the strategy to ddp or fsdp"
            )
        heads = config.num_attention_heads
        fewest = getattr(config, "num_key_value_heads", None) or heads
        if heads % degree or fewest % degree:
            raise ValueError(
                f"learning.strategy.degree {degree} does not divide {heads} attention heads ({fewest} of keys and "
                f"values): choose a degree among {_divisors(fewest)}, or a depth with other heads"
            )

    def share(self, model: PreTrainedModel, rank: int, world_size: int, compiled: bool = False) -> Shared:
        """The model, cut as transformers plans it for the architecture; embeddings and gains stay whole."""
        if world_size == 1:
            return Shared(model, _called(model, compiled))
        self.check(world_size, model.config)
        degree = self.degree or world_size
        shape = (world_size // degree, degree)
        mesh = init_device_mesh(model.device.type, shape, mesh_dim_names=("data", "tensor"))
        styles, in_part = _planned(model)
        parallelize_module(model, mesh["tensor"], styles)
        if shape[0] > 1:
            _cut_by_layers(model, mesh["data"])
        return Shared(
            model,
            _called(model, compiled),
            shares=shape[0],
            share=rank // degree,
            in_part=in_part,
            tensor_mesh=mesh["tensor"],
        )


def _called(model: PreTrainedModel, compiled: bool) -> nn.Module:
    module: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
    return module


def _cut_by_layers(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    for stack in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        for layer in stack:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _planned(model: PreTrainedModel) -> tuple[dict[str, ParallelStyle], list[str]]:
    """Styles by module, and the names of parameters of which each rank sees part of the gradient."""
    known: dict[str, Any] = {
        "colwise": ColwiseParallel,
        "rowwise": RowwiseParallel,
        "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    }
    plan = {name: style for name, style in model.tp_plan.items() if style != "embedding_rowwise"}
    strange = sorted(set(plan.values()) - set(known) - {"replicated_with_grad_allreduce"})
    if strange:
        raise ValueError(
            f"the tensor parallel plan of {model.config.model_type} has {', '.join(strange)}, which is not "
            "known here: set the strategy to ddp or fsdp"
        )
    tied = {id(p) for p in model.get_input_embeddings().parameters()}
    styles: dict[str, ParallelStyle] = {}
    in_part: list[str] = []
    for name, module in model.named_modules():
        style = next((style for pattern, style in plan.items() if fnmatchcase(name, pattern)), None)
        if style in known and not tied & {id(p) for p in module.parameters()}:
            styles[name] = known[style]()
        elif style == "replicated_with_grad_allreduce":
            in_part += [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
    return styles, in_part


def _gradient(model: nn.Module, name: str) -> torch.Tensor:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    return gradient


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(2, number + 1) if number % divisor == 0]


Strategy = Annotated[Single | DDP | FSDP | TensorParallel, Field(discriminator="kind"), AnyOf()]
