"""What a person is told of the final run beside its curves."""

from pathlib import Path

import pytest

from tasks.train import describe_event, describe_weights
from training.watch import OTHER


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            {"event": "skipped", "step": 1200, "reason": "loss is nan"},
            "step 1,200: a step was left out: loss is nan",
        ),
        ({"event": "halved", "step": 3, "reason": "memory ran out"}, "half as much is taken at once"),
        ({"event": "rolled_back", "step": 3, "reason": "weights of step 2"}, "the weights went back"),
        ({"event": "stopped", "step": 3}, "ended early"),
    ],
)
def test_what_was_caught_is_told_with_its_step_and_reason(event: dict[str, object], said: str) -> None:
    assert said in describe_event(event)


def test_it_is_said_which_weights_were_kept_and_where_the_others_lie(tmp_path: Path) -> None:
    assert describe_weights("last", tmp_path) == "the last weights kept"
    (tmp_path / OTHER).touch()
    assert describe_weights("average", tmp_path).endswith(f"kept; the others lie beside in {OTHER}")
