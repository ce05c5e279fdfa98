"""A hundred ways to damage a checkpoint: each is noticed, and the checkpoint before it is used."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tiny_shards import tiny_blueprint, write_shards
from training.budget import TokenCount
from training.checkpoint import newest_checkpoint, read_position
from training.context import Context
from training.data import Shards, Slice
from training.journal import read_journal
from training.loop import train

CLOCK, STOPPED = TokenCount(12 * 128), 6  # steps
BLUEPRINT = tiny_blueprint(average=0.1)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, corpus_texts: list[str]) -> Path:
    """The folder of a training that was stopped half-way, with two checkpoints, and its shards beside it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("interrupted")
    write_shards(folder / "shards", corpus_texts[:40])
    asked = iter([False] * (STOPPED - 1))
    context = Context(folder / "run", checkpoint_seconds=0.0, stop_asked=lambda: next(asked, True))
    train(BLUEPRINT, Slice(Shards(folder / "shards")), CLOCK, context)
    return folder


def victim_of(newest: Path, dice: random.Random) -> Path:
    return dice.choice(sorted(newest.iterdir()))


def truncate(newest: Path, dice: random.Random) -> None:
    victim = victim_of(newest, dice)
    victim.write_bytes(victim.read_bytes()[: dice.randrange(victim.stat().st_size)])


def flip_a_bit(newest: Path, dice: random.Random) -> None:
    victim = victim_of(newest, dice)
    data = bytearray(victim.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    victim.write_bytes(data)


def zero_a_page(newest: Path, dice: random.Random) -> None:
    """What a power cut leaves of pages that never reached the disk."""
    victim = victim_of(newest, dice)
    data = bytearray(victim.read_bytes())
    start = dice.randrange(0, len(data), 4096)
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    if bytes(data) == victim.read_bytes():  # the page was all zeros
        data[start] ^= 1
    victim.write_bytes(data)


def append(newest: Path, dice: random.Random) -> None:
    with victim_of(newest, dice).open("ab") as file:
        file.write(dice.randbytes(dice.randrange(1, 64)))


def delete(newest: Path, dice: random.Random) -> None:
    victim_of(newest, dice).unlink()


def half_write(newest: Path, dice: random.Random) -> None:
    """As if the writer had been killed without the draft's own name: the manifest is not there yet."""
    (newest / "manifest.json").unlink()
    truncate(newest, dice)


def swap_two_files(newest: Path, dice: random.Random) -> None:
    one, other = dice.sample(sorted(newest.iterdir()), 2)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def take_a_file_of_the_one_before(newest: Path, dice: random.Random) -> None:
    before = sorted(newest.parent.glob("step-*"))[-2]
    name = dice.choice([path.name for path in newest.iterdir()])
    shutil.copy(before / name, newest / name)


def empty_the_manifest(newest: Path, dice: random.Random) -> None:
    (newest / "manifest.json").write_text(dice.choice(["", "{}", "[]", "null", "0", '""']))


def shorten_the_manifest(newest: Path, dice: random.Random) -> None:
    manifest = newest / "manifest.json"
    sums = json.loads(manifest.read_text())
    sums.pop(dice.choice(sorted(sums)))
    manifest.write_text(json.dumps(sums))


def write_garbage_into_the_state(newest: Path, dice: random.Random) -> None:
    state = newest / "state.json"
    state.write_bytes(dice.choice([b"", b"{}", dice.randbytes(200), state.read_bytes().replace(b"6", b"5")]))


DAMAGES: list[Callable[[Path, random.Random], None]] = [
    truncate,
    flip_a_bit,
    zero_a_page,
    append,
    delete,
    half_write,
    swap_two_files,
    take_a_file_of_the_one_before,
    empty_the_manifest,
    shorten_the_manifest,
]


@pytest.mark.parametrize("damage", [*DAMAGES, write_garbage_into_the_state], ids=lambda d: d.__name__)
def test_every_damage_is_noticed_and_the_checkpoint_before_it_is_used(
    interrupted: Path, tmp_path: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    """Ten seeds of each of eleven kinds: 110 corruptions, 110 noticed."""
    source, fingerprint = interrupted / "run" / "checkpoints", BLUEPRINT.fingerprint()
    whole = newest_checkpoint(source, fingerprint)
    assert whole is not None
    for seed in range(10):
        folder = tmp_path / str(seed)
        shutil.copytree(source, folder)
        damage(folder / whole.name, random.Random(seed))
        found = newest_checkpoint(folder, fingerprint)
        assert found is not None
        assert read_position(found).step == read_position(whole).step - 1, f"seed {seed}"


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty_the_manifest], ids=lambda d: d.__name__)
def test_a_training_with_a_damaged_checkpoint_ends_as_if_nothing_had_been(
    interrupted: Path, tmp_path: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    slice_ = Slice(Shards(interrupted / "shards"))
    calm = train(BLUEPRINT, slice_, CLOCK, Context(tmp_path / "calm"))[1]
    shutil.copytree(interrupted / "run", tmp_path / "damaged")
    checkpoints = sorted((tmp_path / "damaged" / "checkpoints").glob("step-*"))
    damage(checkpoints[-1], random.Random(7))
    other = train(BLUEPRINT, slice_, CLOCK, Context(tmp_path / "damaged", checkpoint_seconds=0.0))[1]
    assert all(torch.equal(x, y) for x, y in zip(calm.parameters(), other.parameters(), strict=True))
    steps = [e["step"] for e in read_journal(tmp_path / "damaged" / "journal.jsonl") if e["event"] == "step"]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"data": "other-tokens"}, {"vocabulary": 300}, {"start_token": 0}], ids=str
)
def test_a_checkpoint_of_another_recipe_or_data_is_refused(
    interrupted: Path, change: dict[str, object]
) -> None:
    other = BLUEPRINT.model_copy(update=change)
    with pytest.raises(ValueError, match="another training"):
        newest_checkpoint(interrupted / "run" / "checkpoints", other.fingerprint())
