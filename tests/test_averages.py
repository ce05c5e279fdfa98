import numpy as np
import pytest
import torch
from torch import nn

from training.averages import Average, power_of, width_of_power


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_the_power_gives_the_width(width: float) -> None:
    assert width_of_power(power_of(width)) == pytest.approx(width)


def test_the_memory_is_as_wide_as_asked_for() -> None:
    """The weights that the average gives to each step have the standard deviation that names it."""
    model, steps, width = nn.Linear(1, 1, bias=False), 2000, 0.1
    average = Average(model, width)
    share = np.zeros(steps)
    for step in range(1, steps + 1):
        kept = (1 - 1 / step) ** (power_of(width) + 1)
        share *= kept
        share[step - 1] = 1 - kept
        nn.init.constant_(model.weight, float(step))
        average.update(step)
    places = np.arange(1, steps + 1)
    mean = float((share * places).sum())
    assert average.weights["weight"].item() == pytest.approx(mean, rel=1e-3)
    spread = np.sqrt((share * (places - mean) ** 2).sum()) / steps
    assert spread == pytest.approx(width, rel=0.01)


def test_the_first_step_is_the_average_of_itself() -> None:
    model = nn.Linear(3, 2)
    average = Average(model, 0.1)
    torch.nn.init.ones_(model.weight)
    average.update(1)
    assert torch.equal(average.weights["weight"], torch.ones(2, 3))
