"""Muon's work, divided: every worker orthogonalises its share of the matrices, and sends round what came of it."""

from typing import Any

import torch
import torch.distributed as dist


def divide(optimizer: torch.optim.Muon) -> None:
    """Has each rank update some of the matrices, and all ranks end with all of them, bit by bit as without.

    For ranks that hold the same whole weights and gradients (DDP). Momentum is kept by all of them, as it costs
    next to nothing, so that rank 0's checkpoint holds all.
    """
    shares = shares_of([p for group in optimizer.param_groups for p in group["params"]])
    own = {id(p) for p in shares[dist.get_rank()]}

    def leave_to_others(_: Any, *arguments: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in own and parameter.grad is not None:
                    keep_momentum(optimizer, parameter, group["momentum"])
                    parameter.grad = None

    def send_round(_: Any, *arguments: object) -> None:
        for owner, parameters in enumerate(shares):
            if not parameters:
                continue
            whole = torch.cat([p.detach().flatten() for p in parameters])
            dist.broadcast(whole, src=owner)
            if owner != dist.get_rank():
                parts = torch.split(whole, [p.numel() for p in parameters])
                for parameter, part in zip(parameters, parts, strict=True):
                    parameter.detach().copy_(part.view_as(parameter))

    optimizer.register_step_pre_hook(leave_to_others)
    optimizer.register_step_post_hook(send_round)


def shares_of(parameters: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Matrices by rank, so that all have about the same to do: a matrix costs its size times its shorter side."""
    shares: list[list[torch.Tensor]] = [[] for _ in range(dist.get_world_size())]
    loads = [0] * len(shares)
    for parameter in sorted(parameters, key=_cost, reverse=True):
        least = loads.index(min(loads))
        shares[least].append(parameter)
        loads[least] += _cost(parameter)
    return shares


def keep_momentum(optimizer: torch.optim.Muon, parameter: torch.Tensor, momentum: float) -> None:
    """The part of torch's step that others need not do for this rank."""
    assert parameter.grad is not None
    state = optimizer.state[parameter]
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(parameter.grad)
    state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)


def _cost(parameter: torch.Tensor) -> int:
    return parameter.numel() * min(parameter.shape)
