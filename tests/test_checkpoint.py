import random
from pathlib import Path

import pytest
import torch

from training.checkpoint import Position, load_checkpoint, newest_checkpoint, read_position, save_checkpoint
from training.model import Scratch
from training.optimizers import Muon


def position(step: int) -> Position:
    return Position(step=step, tokens=step * 128, used_seconds=1.5 * step, fingerprint="recipe")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints of one training, steps 1 and 2."""
    model = Scratch(depth=1).build(97, 16, 0, seed=0)
    optimizers = Muon().build(model)
    for step in (1, 2):
        model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        save_checkpoint(tmp_path, position(step), model, optimizers)
    return tmp_path


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    model = Scratch(depth=1).build(97, 16, 0, seed=0)
    optimizers = Muon().build(model)
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    path = save_checkpoint(tmp_path, position(7), model, optimizers)
    dice = torch.rand(3)

    other = Scratch(depth=1).build(97, 16, 0, seed=5)
    others = Muon().build(other)
    assert load_checkpoint(path, other, others) == position(7)
    assert torch.equal(torch.rand(3), dice)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)
    for saved, loaded in zip(optimizers, others, strict=True):
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
    model = Scratch(depth=1).build(97, 16, 0, seed=0)
    save_checkpoint(folder, position(3), model, Muon().build(model))
    assert [path.name for path in sorted(folder.glob("step-*"))] == ["step-00000002", "step-00000003"]


def test_another_training_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="another training"):
        newest_checkpoint(folder, "other recipe")


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nothing", "recipe") is None
