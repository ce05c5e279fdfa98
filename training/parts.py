"""Tensors of which each rank holds a part: from parts to the whole and back, and what a rank's own part is."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_cut(model: nn.Module) -> bool:
    """Whether ranks hold parts of the model's weights, so that every call of it takes all ranks."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def gathered(tensors: Mapping[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """The same tensors, whole and in main memory; empty unless `keep`. All ranks must call it alike."""
    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if keep:
            found[name] = tensor.detach().cpu()
    return found


def part_of(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a whole tensor, cut as `like` is; the tensor itself if shapes differ."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    whole = whole.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def parts_of(whole: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`part_of` each tensor, by name."""
    return {name: part_of(tensor, like[name]) for name, tensor in whole.items()}


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this rank holds, in the same memory; the tensor itself if it is not cut."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def pieces_of(tensor: torch.Tensor) -> int:
    """Into how many different pieces the ranks cut a tensor."""
    if not isinstance(tensor, DTensor):
        return 1
    mesh, pieces = tensor.device_mesh, 1
    for dimension, placement in enumerate(tensor.placements):
        pieces *= 1 if placement.is_replicate() else mesh.size(dimension)
    return pieces
