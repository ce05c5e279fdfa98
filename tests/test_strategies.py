"""What a strategy says and settles in one process: which workers it takes, and what it refuses.

That several workers learn what one learns is shown in `test_parallel.py`.
"""

from typing import Any, get_args

import pytest
from pydantic import TypeAdapter
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
