"""Optimizers: torch's own; only who gets which parameters is ours."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from training.config import AnyOf, Choice, Tune

Optimizers = list[torch.optim.Optimizer]


class AdamW(Choice):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); matrices decay, gains do not."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: Annotated[float, Tune(3e-4, 1e-2, log=True)] = Field(
        default=2e-3, gt=0, le=1, description="Step size. Too high diverges, too low wastes the budget."
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Memory of the gradient's direction.")
    beta2: float = Field(
        default=0.95, ge=0, lt=1, description="Memory of its size; high values react late in short runs."
    )
    weight_decay: float = Field(default=0.1, ge=0, le=10, description="Pull of the matrices towards zero.")

    def build(self, model: nn.Module) -> Optimizers:
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return [torch.optim.AdamW(groups, lr=self.learning_rate, betas=(self.beta1, self.beta2), fused=True)]


class Muon(Choice):
    """Orthogonalised momentum for the hidden matrices (Jordan et al. 2024), AdamW for the rest."""

    kind: Literal["muon"] = "muon"
    learning_rate: Annotated[float, Tune(0.005, 0.06, log=True)] = Field(
        default=0.02, gt=0, le=1, description="Step size of the hidden matrices."
    )
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Memory of the gradient's direction.")
    weight_decay: float = Field(
        default=0.0, ge=0, le=10, description="Pull of the hidden matrices towards zero."
    )
    embedding_learning_rate: Annotated[float, Tune(0.003, 0.03, log=True)] = Field(
        default=0.01, gt=0, le=1, description="AdamW's step size for embeddings, output layer and gains."
    )

    def build(self, model: nn.Module) -> Optimizers:
        edges = {
            id(p)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for p in module.parameters(recurse=False)
        }
        head = getattr(model, "get_output_embeddings", lambda: None)()
        if head is not None:
            edges |= {id(p) for p in head.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in edges]
        rest = [p for p in trained if p.ndim != 2 or id(p) in edges]
        betas = (0.8, 0.95)  # short memories for short runs; by eye, see DECISIONS
        optimizers: Optimizers = [
            torch.optim.AdamW(
                rest, lr=self.embedding_learning_rate, betas=betas, weight_decay=0.0, fused=True
            )
        ]
        if matrices:
            optimizers.append(
                torch.optim.Muon(
                    matrices, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
                )
            )
        return optimizers


Optimizer = Annotated[AdamW | Muon, Field(discriminator="kind"), AnyOf()]
