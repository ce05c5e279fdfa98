"""Optimizers: torch's own, and one of pytorch_optimizer; only who gets which parameters is ours."""

import math
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from training.config import AnyOf, Choice, Tune

Optimizers = list[torch.optim.Optimizer]
Groups = list[dict[str, Any]]

Beta1 = Annotated[float, Field(ge=0, lt=1, description="Memory of the gradient's direction.")]
Beta2 = Annotated[
    float,
    Field(ge=0, lt=1, description="Memory of the gradient's size; high values react late in short runs."),
]
Decay = Annotated[
    float,
    Field(
        ge=0, le=10, description="Pull of the matrices towards zero, by the rate; gains and biases have none."
    ),
]
L2 = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Penalty on the squared matrices, added to their gradients; much of it keeps them from fitting.",
    ),
]


class SGD(Choice):
    """Plain descent with momentum (Sutskever et al. 2013): the least memory; its rate wants a search the most."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Annotated[float, Tune(0.05, 1.0, log=True)] = Field(
        default=0.3, gt=0, le=100, description="Step size. Grows and shrinks with the gradient itself."
    )
    momentum: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="Share of the last step that is kept; 0.9 makes steps ten times longer.",
    )
    nesterov: bool = Field(default=True, description="Looks ahead along the momentum, which swings less.")
    l2: L2 = 0.0

    @model_validator(mode="after")
    def _looks_ahead_along_something(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError(
                "nesterov looks ahead along the momentum: set momentum above 0, or nesterov to false"
            )
        return self

    def build(self, model: nn.Module) -> Optimizers:
        groups = _groups(model, self.l2)
        return [
            torch.optim.SGD(
                groups, lr=self.learning_rate, momentum=self.momentum, nesterov=self.nesterov, fused=True
            )
        ]


class Adam(Choice):
    """Steps of like size for all weights (Kingma and Ba 2015); its L2 penalty fades where gradients are large."""

    kind: Literal["adam"] = "adam"
    learning_rate: Annotated[float, Tune(3e-4, 1e-2, log=True, width_power=-1.0)] = Field(
        default=2e-3, gt=0, le=1, description="Step size. Too high diverges, too low wastes the budget."
    )
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.95
    l2: L2 = 0.0

    def build(self, model: nn.Module) -> Optimizers:
        groups = _groups(model, self.l2)
        return [torch.optim.Adam(groups, lr=self.learning_rate, betas=(self.beta1, self.beta2), fused=True)]


class AdamW(Choice):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); matrices decay, gains do not."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: Annotated[float, Tune(3e-4, 1e-2, log=True, width_power=-1.0)] = Field(
        default=2e-3, gt=0, le=1, description="Step size. Too high diverges, too low wastes the budget."
    )
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.95
    weight_decay: Decay = 0.1

    def build(self, model: nn.Module) -> Optimizers:
        groups = _groups(model, self.weight_decay)
        return [torch.optim.AdamW(groups, lr=self.learning_rate, betas=(self.beta1, self.beta2), fused=True)]


class RMSProp(Choice):
    """Gradients over their recent size (Hinton 2012): Adam without a memory of the direction, unless asked for."""

    kind: Literal["rms_prop"] = "rms_prop"
    learning_rate: Annotated[float, Tune(3e-4, 1e-2, log=True, width_power=-1.0)] = Field(
        default=2e-3, gt=0, le=1, description="Step size. Too high diverges, too low wastes the budget."
    )
    smoothing: float = Field(
        default=0.95,
        ge=0,
        lt=1,
        description="Memory of the gradient's size; the first steps are long where it is high.",
    )
    momentum: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the last step that is kept; lower the rate as it grows.",
    )
    l2: L2 = 0.0

    def build(self, model: nn.Module) -> Optimizers:
        groups = _groups(model, self.l2)
        return [
            torch.optim.RMSprop(groups, lr=self.learning_rate, alpha=self.smoothing, momentum=self.momentum)
        ]


class LAMB(Choice):
    """AdamW whose steps are in proportion to each weight tensor's length (You et al. 2020): made for huge batches."""

    kind: Literal["lamb"] = "lamb"
    learning_rate: Annotated[float, Tune(0.01, 0.2, log=True)] = Field(
        default=0.05, gt=0, le=1, description="Step size, as a share of the length of what is stepped."
    )
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.95
    weight_decay: Decay = 0.1

    def build(self, model: nn.Module) -> Optimizers:
        from pytorch_optimizer import Lamb  # takes seconds to import

        return [
            Lamb(
                _groups(model, self.weight_decay),
                lr=self.learning_rate,
                betas=(self.beta1, self.beta2),
                adam_debias=True,  # lengths are set anyway; else the first step would be ten times as long
            )
        ]


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
        hidden = hidden_matrices(model)
        chosen = {id(p) for matrices in hidden.values() for p in matrices}
        rest = [p for p in _trained(model) if id(p) not in chosen]
        betas = (0.8, 0.95)  # short memories for short runs; by eye, see DECISIONS
        optimizers: Optimizers = [
            torch.optim.AdamW(
                rest, lr=self.embedding_learning_rate, betas=betas, weight_decay=0.0, fused=True
            )
        ]
        groups = [
            {
                "params": matrices,
                "lr": self.learning_rate * scale,
                "weight_decay": self.weight_decay / scale,  # which torch multiplies by the rate
            }
            for scale, matrices in hidden.items()
        ]
        if groups:
            optimizers.append(torch.optim.Muon(groups, momentum=self.momentum))
        return optimizers


def hidden_matrices(model: nn.Module) -> dict[float, list[nn.Parameter]]:
    """The matrices between embeddings and predictions, by the factor that Muon's rate for them wants.

    Muon steps `[outputs, inputs]` matrices by sqrt(max(1, outputs / inputs)) (torch's `adjust_lr_fn`
    "original"); gpt2 keeps its matrices the other way round, so theirs want sqrt(outputs / inputs)
    on top. Convolutions, embeddings, the output layer, also where it is tied to them, and the last
    layer of a classifier are not among them.
    """
    edges = {id(p) for m in _edges(model) for p in m.parameters(recurse=False)}
    found: dict[float, list[nn.Parameter]] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            weight = module.weight
            if weight.requires_grad and id(weight) not in edges:
                edges.add(id(weight))  # one module may stand in several places
                lying = isinstance(module, Conv1D)
                scale = math.sqrt(weight.shape[1] / weight.shape[0]) if lying else 1.0
                found.setdefault(scale, []).append(cast(nn.Parameter, weight))
    return found


def _edges(model: nn.Module) -> list[nn.Module]:
    """Embeddings, and what gives the predictions."""
    edges: list[nn.Module] = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    if isinstance(model, PreTrainedModel):
        output = model.get_output_embeddings()
        edges += [output] if output is not None else []
        body = {id(module) for module in model.base_model.modules()}
        edges += [
            module
            for module in model.modules()
            if isinstance(module, nn.Linear)
            and module.out_features == model.config.num_labels
            and id(module) not in body
        ]
    return edges


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _groups(model: nn.Module, decay: float) -> Groups:
    """Matrices, embeddings and convolutions with this decay; gains and biases with none."""
    groups: Groups = [
        {"params": [p for p in _trained(model) if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in _trained(model) if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


Optimizer = Annotated[
    SGD | Adam | AdamW | RMSProp | LAMB | Muon,
    Field(
        discriminator="kind",
        description="How a gradient becomes a step. Muon learned fastest in our trials; AdamW is what others use.",
    ),
    AnyOf(),
]
