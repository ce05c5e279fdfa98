import random
from pathlib import Path

import pytest
import torch

from training.averages import Average
from training.checkpoint import load_checkpoint, newest_checkpoint, read_position, save_checkpoint
from training.model import Scratch, Shape
from training.optimizers import Muon
from training.state import Best, Position, State


def position(step: int) -> Position:
    return Position(
        step=step, tokens=step * 128, place=step * 128, used_seconds=1.5 * step, fingerprint="recipe"
    )


def state(seed: int = 0) -> State:
    """A tiny model, averaged, with a best look, and its optimizers."""
    model = Scratch(depth=1).build(Shape(vocabulary=97, context=16), seed=seed)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return State(model, Muon().build(model), scaler, average=Average(model, 0.1), best=Best(patience=3))


def step(trained: State) -> None:
    trained.model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    for optimizer in trained.optimizers:
        optimizer.step()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints of one training, steps 1 and 2."""
    trained = state()
    for number in (1, 2):
        step(trained)
        save_checkpoint(tmp_path, position(number), trained)
    return tmp_path


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    trained, other = state(), state(seed=5)
    assert trained.best and other.best and trained.average and other.average
    step(trained)
    trained.average.update(3)
    trained.best.look(1.25, trained.model)
    trained.guard.objection(3.0, 0.1)
    path = save_checkpoint(tmp_path, position(7), trained)
    assert load_checkpoint(path, other) == position(7)
    assert other.guard == trained.guard
    assert (other.best.score, other.best.waited) == (1.25, 0)
    for mine, its in zip(trained.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, its)
    for name, weights in trained.extras().items():
        assert weights.keys() == other.extras()[name].keys()
        assert all(torch.equal(tensor, other.extras()[name][key]) for key, tensor in weights.items())
    for saved, loaded in zip(trained.optimizers, other.optimizers, strict=True):
        for number, fields in saved.state_dict()["state"].items():
            for field, value in fields.items():
                assert torch.equal(torch.as_tensor(value), loaded.state_dict()["state"][number][field])


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_checkpoint_is_passed_over(folder: Path, seed: int) -> None:
    dice = random.Random(seed)
    newest = folder / "step-00000002"
    victim = dice.choice(sorted(newest.iterdir()))
    data = bytearray(victim.read_bytes())
    if seed % 3 == 0:
        victim.write_bytes(data[: dice.randrange(len(data))])
    elif seed % 3 == 1:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        victim.write_bytes(data)
    else:
        victim.unlink()
    found = newest_checkpoint(folder, "recipe")
    assert found is not None
    assert read_position(found).step == 1


def test_a_half_written_checkpoint_does_not_count(folder: Path) -> None:
    (folder / ".step-00000003-99").mkdir()
    found = newest_checkpoint(folder, "recipe")
    assert found is not None
    assert found.name == "step-00000002"


def test_only_the_newest_are_kept(folder: Path) -> None:
    save_checkpoint(folder, position(3), state())
    assert [path.name for path in sorted(folder.glob("step-*"))] == ["step-00000002", "step-00000003"]


def test_another_training_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="another training"):
        newest_checkpoint(folder, "other recipe")


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nothing", "recipe") is None
