"""What a training does about memory that runs out, steps out of line, and weights that were better before."""

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tests.test_loop import STEP, Dies, Killed, weights
from tests.tiny_shards import tiny_blueprint, write_shards
from training.blueprint import Blueprint
from training.budget import TokenCount
from training.context import Context
from training.data import Shards, Slice
from training.guard import MOST_SKIPPED, WINDOW
from training.journal import Event, read_journal
from training.loop import train
from training.objectives import CausalLanguageModel
from training.watch import OTHER, Watch


@pytest.fixture
def shards(tmp_path: Path, corpus_texts: list[str]) -> Shards:
    torch.set_num_threads(1)
    return write_shards(tmp_path / "shards", corpus_texts[:60])


def events(folder: Path, *kinds: str) -> list[Event]:
    return [event for event in read_journal(folder / "journal.jsonl") if event["event"] in kinds]


class Sabotaged(CausalLanguageModel):
    """Learns as usual, but for the calls whose loss is multiplied."""

    def loss_sum(self, model: Any, batch: Any, smoothing: float = 0.0) -> torch.Tensor:
        CALLS.append(len(CALLS))
        return super().loss_sum(model, batch, smoothing) * FACTORS.get(CALLS[-1], 1.0)


CALLS: list[int] = []
FACTORS: dict[int, float] = {}


def sabotaged(factors: dict[int, float], **learning: object) -> Blueprint:
    CALLS.clear()
    FACTORS.clear()
    FACTORS.update(factors)
    return tiny_blueprint(**{"short_context": 0.0, **learning}).model_copy(update={"objective": Sabotaged()})


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e4])
def test_a_bad_step_is_skipped_and_noted(shards: Shards, tmp_path: Path, factor: float) -> None:
    bad = WINDOW + 3
    context = Context(tmp_path / "run")
    summary, model = train(sabotaged({bad: factor}), Slice(shards), TokenCount((bad + 9) * STEP), context)
    (skipped,) = events(tmp_path / "run", "skipped")
    assert skipped["step"] == bad + 1 and skipped["reason"]
    assert summary.steps == bad + 9
    assert all(torch.isfinite(tensor).all() for tensor in weights(model))


@pytest.mark.parametrize("short_context, skipped", [(0.5, 0), (0.0, MOST_SKIPPED)])
def test_a_level_that_moves_with_the_length_of_rows_is_in_line(
    shards: Shards, tmp_path: Path, short_context: float, skipped: int
) -> None:
    """As where a text was learnt by heart in short rows."""
    half = WINDOW + 12
    blueprint = sabotaged(dict.fromkeys(range(half, 2 * half), 1e4), short_context=short_context)
    train(blueprint, Slice(shards), TokenCount(2 * half * STEP), Context(tmp_path / "run"))
    assert len(events(tmp_path / "run", "skipped")) == skipped


def test_a_skipped_step_leaves_the_weights_alone(shards: Shards, tmp_path: Path) -> None:
    def run(factors: dict[int, float], steps: int, name: str) -> list[torch.Tensor]:
        blueprint = sabotaged(factors, schedule={"kind": "constant"})
        return weights(train(blueprint, Slice(shards), TokenCount(steps * STEP), Context(tmp_path / name))[1])

    for ours, theirs in zip(run({5: float("nan")}, 6, "a"), run({}, 5, "b"), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_that_stay_bad_go_back_to_the_last_checkpoint(shards: Shards, tmp_path: Path) -> None:
    bad = {call: float("nan") for call in range(20, 20 + MOST_SKIPPED)}
    context = Context(tmp_path / "run", checkpoint_seconds=0.0)
    summary, _ = train(sabotaged(bad), Slice(shards), TokenCount(40 * STEP), context)
    (back,) = events(tmp_path / "run", "rolled_back")
    assert back["step"] == 20 + MOST_SKIPPED
    assert summary.steps == 40


def test_without_a_checkpoint_a_training_that_stays_bad_ends(shards: Shards, tmp_path: Path) -> None:
    bad = dict.fromkeys(range(20, 1000), float("nan"))
    with pytest.raises(FloatingPointError, match="at step 28"):
        train(sabotaged(bad), Slice(shards), TokenCount(40 * STEP), Context(tmp_path / "run"))


def test_a_level_that_has_moved_is_accepted(shards: Shards, tmp_path: Path) -> None:
    moved = dict.fromkeys(range(WINDOW + 2, 10_000), 1e4)
    steps = WINDOW + 40
    summary, _ = train(sabotaged(moved), Slice(shards), TokenCount(steps * STEP), Context(tmp_path / "run"))
    assert len(events(tmp_path / "run", "accepted")) == 1
    assert summary.steps == steps


def test_patience_ends_a_training_and_brings_its_best_back(shards: Shards, tmp_path: Path) -> None:
    """With a rate that wrecks it after a good beginning."""
    learning = {"patience": 2, "schedule": {"kind": "constant"}, "gradient_norm": 1e9}
    wild = {"kind": "adamw", "learning_rate": 0.5}
    blueprint = tiny_blueprint(optimizer=wild, **learning)
    looks = tuple(look / 100 for look in range(1, 101))
    watch = Watch(Slice(shards, "validation"), tokens=512, at=looks)
    context = Context(tmp_path / "run")
    summary, _ = train(blueprint, Slice(shards), TokenCount(300 * STEP), context, watch)
    scores = [event["bits"] for event in events(tmp_path / "run", "validation")]
    assert summary.steps < 300 and not summary.stopped
    assert summary.kept == "best" and summary.validation_bits == min(scores) < scores[-1]
    assert len(events(tmp_path / "run", "stopped")) == 1


def test_an_average_is_kept_if_it_is_better_and_the_other_lies_beside(shards: Shards, tmp_path: Path) -> None:
    """At a constant high rate, the average of the last steps beats the last of them."""
    noisy = {"optimizer": {"kind": "adamw", "learning_rate": 0.02}, "schedule": {"kind": "constant"}}
    blueprint = tiny_blueprint(average=0.1, **noisy)
    watch = Watch(Slice(shards, "validation"), tokens=4096)
    context = Context(tmp_path / "run")
    summary, model = train(blueprint, Slice(shards), TokenCount(200 * STEP), context, watch)
    (look,) = events(tmp_path / "run", "validation")
    assert summary.kept == "average"
    assert summary.validation_bits is not None and summary.validation_bits < look["bits"]
    other = load_file(tmp_path / "run" / OTHER)
    assert other.keys() == dict(model.named_parameters()).keys()
    assert any(not torch.equal(other[name], p) for name, p in model.named_parameters())


EVERYTHING = {
    "average": 0.1,
    "patience": 50,
    "dropout": 0.1,
    "l1": 1e-5,
    "label_smoothing": 0.1,
    "micro_batch_tokens": 32,
    "activation_checkpointing": True,
    "packing": "documents",
}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_training_with_everything_on_survives_kills_bit_by_bit(
    shards: Shards, tmp_path: Path, optimizer: str
) -> None:
    blueprint = tiny_blueprint(optimizer={"kind": optimizer}, **EVERYTHING)
    watch = Watch(Slice(shards, "validation"), tokens=512, at=(0.2, 0.4, 0.6, 0.8, 1.0))

    def run(name: str, fatal: int | None = None) -> PreTrainedModel:
        stop = Dies(fatal) if fatal else lambda: False
        context = Context(tmp_path / name, checkpoint_seconds=0.0, stop_asked=stop)
        return train(blueprint, Slice(shards), TokenCount(30 * STEP), context, watch)[1]

    calm = weights(run("calm"))
    for fatal in (7, 19, 3):
        with pytest.raises(Killed):
            run("killed", fatal)
    assert all(torch.equal(x, y) for x, y in zip(calm, weights(run("killed")), strict=True))


def test_every_technique_changes_what_is_learned(shards: Shards, tmp_path: Path) -> None:
    def run(name: str, **learning: object) -> list[torch.Tensor]:
        context = Context(tmp_path / name)
        return weights(train(tiny_blueprint(**learning), Slice(shards), TokenCount(5 * STEP), context)[1])

    plain = run("plain")
    for name in ("dropout", "l1", "label_smoothing"):
        assert any(not torch.equal(x, y) for x, y in zip(plain, run(name, **{name: 0.1}), strict=True)), name


def _starved(folder: Path, shards: Path) -> None:
    """A training that may hold little more memory than it holds at its start."""
    torch.set_num_threads(1)
    blueprint = tiny_blueprint(context=512, batch_tokens=64 * 512, short_context=0)
    train(tiny_blueprint(), Slice(Shards(shards)), TokenCount(STEP), Context(folder / "first"))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 250 * 2**20,) * 2)
    train(blueprint, Slice(Shards(shards)), TokenCount(2 * 64 * 512), Context(folder / "run"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of memory are Linux's here")
def test_where_memory_runs_out_the_micro_batch_is_halved(shards: Shards, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_starved, args=(tmp_path, shards.folder))
    process.start()
    process.join()
    assert process.exitcode == 0
    halved = events(tmp_path / "run", "halved")
    assert halved and "memory ran out with 64 rows" in halved[0]["reason"]
    assert Context(tmp_path / "run").micro_rows == 64 // 2 ** len(halved)
    assert events(tmp_path / "run", "step")[-1]["step"] == 2
