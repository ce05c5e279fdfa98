"""What a strategy says and settles in one process: which workers it takes, and what it refuses.

That several workers learn what one learns is shown in `test_parallel.py`.
"""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig

from tests.tiny_shards import tiny_blueprint
from training.parallel import DDP, FSDP, Single, Strategy, TensorParallel

PLANNED = ("nanochat", "llama", "qwen3")  # families with a tensor parallel plan


@pytest.mark.parametrize("member", get_args(get_args(Strategy)[0]))
def test_one_worker_needs_no_process_group(member: type[DDP]) -> None:
    model = tiny_blueprint().build()
    shared = member().share(model, 0, 1)
    assert shared.module is model is shared.whole()
    assert (shared.shares, shared.share, shared.ranks_of_a_share) == (1, 0, 1)


class Older(DistributedDataParallel):
    """As it was before torch 2.13, which gave a keyword another name."""

    def __init__(
        self, module: torch.nn.Module, broadcast_buffers: bool = True, gradient_as_bucket_view: bool = False
    ) -> None:
        super().__init__(module, gradient_as_bucket_view=gradient_as_bucket_view)
        self.broadcast_buffers = broadcast_buffers


@pytest.mark.parametrize("of_torch", [DistributedDataParallel, Older])
def test_ddp_sends_no_buffers_round_whichever_torch_it_meets(
    of_torch: type[DistributedDataParallel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.parallel.DistributedDataParallel", of_torch)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        shared = DDP().share(tiny_blueprint().build(), 0, 2)
    finally:
        dist.destroy_process_group()
    assert isinstance(shared.module, of_torch) and shared.module.broadcast_buffers is False


def config(family: str = "nanochat", heads: int = 6, narrow: int = 6) -> Any:
    return AutoConfig.for_model(
        family, hidden_size=384, num_attention_heads=heads, num_key_value_heads=narrow
    )


@pytest.mark.parametrize(
    ("strategy", "world_size", "shape", "says"),
    [
        (Single(), 2, config(), "compute.workers to 1, or the strategy to ddp"),
        (TensorParallel(degree=4), 6, config(), r"degree 4 does not divide 6 workers: .*\[2, 3, 6\]"),
        (TensorParallel(), 4, config(), r"degree 4 does not divide 6 attention heads .*\[2, 3, 6\]"),
        (TensorParallel(degree=3), 3, config(narrow=2), r"\(2 of keys and values\)"),
        (TensorParallel(), 2, AutoConfig.for_model("gpt2"), "no tensor parallel plan for gpt2"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(
    strategy: Single | TensorParallel, world_size: int, shape: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        strategy.check(world_size, shape)


@pytest.mark.parametrize("family", PLANNED)
def test_families_with_a_plan_may_be_cut(family: str) -> None:
    for strategy in (DDP(), FSDP(), TensorParallel(degree=2)):
        strategy.check(4, config(family))


def test_the_strategy_is_no_part_of_the_fingerprint() -> None:
    dumped = (TypeAdapter(Strategy).dump_python(strategy) for strategy in (DDP(), FSDP()))
    prints = {tiny_blueprint(strategy=strategy).fingerprint() for strategy in dumped}
    assert len(prints) == 1
