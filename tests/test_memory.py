"""What fits into memory: refused before the start, or taken in parts."""

import pytest

from tasks.artifacts import InputError
from tasks.memory import FILLED, depths_that_fit, least_bytes, micro_batch
from tasks.settle import DEPTHS
from tests.test_plan import base
from training.blueprint import Blueprint, Learning
from training.model import Scratch


def test_a_model_that_cannot_fit_is_refused_with_the_numbers() -> None:
    needed = least_bytes(base(depth=12), "cpu")
    with pytest.raises(InputError, match=r"at least [\d.]+ GB a worker .* each has 0\.1 GB"):
        depths_that_fit(base(depth=12), DEPTHS, "cpu", 1e8)
    fitting = depths_that_fit(base(), DEPTHS, "cpu", needed)
    assert fitting == tuple(depth for depth in DEPTHS if depth <= 12)
    with pytest.raises(InputError, match="cannot fit"):
        depths_that_fit(base(), DEPTHS, "cpu", 1e6)


def test_a_batch_that_memory_does_not_hold_is_taken_in_parts() -> None:
    large = Blueprint(
        model=Scratch(depth=4), learning=Learning(context=256, batch_tokens=32_768), vocabulary=1024
    )
    one, eight = least_bytes(large, "cpu"), least_bytes(large, "cpu", rows=8)
    assert micro_batch(large, 2, "cpu", 1e12) is None
    parts = micro_batch(large, 2, "cpu", eight / FILLED * 1.01)
    assert parts == 8 * 256 and 32_768 // 2 % parts == 0
    assert micro_batch(large, 2, "cpu", one) == 256  # a row is the least there is
