from typing import get_args

import pytest
import torch

from training.model import Scratch, Shape
from training.optimizers import AdamW, Muon, Optimizer

MEMBERS = get_args(get_args(Optimizer)[0])


@pytest.mark.parametrize("member", MEMBERS)
def test_every_parameter_is_in_exactly_one_group(member: type[AdamW]) -> None:
    model = Scratch(family="qwen3", depth=2).build(
        Shape(vocabulary=257, context=32), seed=0
    )  # has gains, too
    grouped = [p for o in member().build(model) for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("member", MEMBERS)
def test_a_fixed_batch_is_learned(member: type[AdamW]) -> None:
    model = Scratch(depth=1).build(Shape(vocabulary=64, context=16), seed=0)
    optimizers = member().build(model)
    tokens = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        logits = model(input_ids=tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    before = loss().item()
    for _ in range(30):
        loss().backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert loss().item() < 0.7 * before


def test_muon_leaves_embeddings_and_output_to_adamw() -> None:
    model = Scratch(depth=2).build(Shape(vocabulary=257, context=32), seed=0)
    adamw, muon = Muon().build(model)
    matrices = {id(p) for group in muon.param_groups for p in group["params"]}
    edges = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    assert not matrices & edges
    assert len(matrices) == 6 * 2
    assert isinstance(adamw, torch.optim.AdamW)


def test_adamw_decays_matrices_only() -> None:
    model = Scratch(family="qwen3", depth=1).build(Shape(vocabulary=257, context=32), seed=0)
    for group in AdamW(weight_decay=0.3).build(model)[0].param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.3) for p in group["params"])
