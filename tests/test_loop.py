import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.multiprocessing.spawn import spawn

from tests.tiny_shards import tiny_blueprint, write_shards
from training.budget import TokenCount, Wall
from training.context import Context
from training.data import Shards, Slice
from training.journal import Event, read_journal
from training.loop import rows_of, train
from training.model import Scratch
from training.watch import Watch
from training.worker import Assignment, carry_out

STEP = 128  # tokens of a tiny step


@pytest.fixture
def shards(tmp_path: Path, corpus_texts: list[str]) -> Shards:
    torch.set_num_threads(1)
    return write_shards(tmp_path / "shards", corpus_texts[:60])


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_training_lowers_the_loss_and_says_how_far_it_came(shards: Shards, tmp_path: Path) -> None:
    watch = Watch(Slice(shards, "validation"), tokens=1024, at=(0.5, 1.0))
    summary, _ = train(
        tiny_blueprint(), Slice(shards), TokenCount(60 * STEP), Context(tmp_path / "run"), watch
    )
    events = list(read_journal(tmp_path / "run" / "journal.jsonl"))
    looks = [event["bits"] for event in events if event["event"] == "validation"]
    steps = [event for event in events if event["event"] == "step"]
    assert summary.steps == 60
    assert summary.tokens == 60 * STEP == steps[-1]["tokens"]
    assert steps[-1]["progress"] == 1.0
    assert len(looks) == 2
    assert looks[1] == summary.validation_bits
    assert looks[1] < looks[0] < 8
    assert summary.training_seconds > 0


def test_runs_of_one_seed_are_bit_identical_and_of_another_are_not(shards: Shards, tmp_path: Path) -> None:
    def run(seed: int, name: str) -> list[torch.Tensor]:
        blueprint = tiny_blueprint().model_copy(update={"seed": seed})
        return weights(train(blueprint, Slice(shards), TokenCount(10 * STEP), Context(tmp_path / name))[1])

    first, again, other = run(0, "a"), run(0, "b"), run(1, "c")
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(first, other, strict=True))


class Killed(Exception):
    pass


class Dies:
    """Ends a training abruptly when asked for the n-th time whether to stop."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        if self.left == 0:
            raise Killed
        return False


def test_a_training_killed_twice_ends_as_if_it_had_not_been(shards: Shards, tmp_path: Path) -> None:
    clock, blueprint = TokenCount(30 * STEP), tiny_blueprint()
    undisturbed = weights(train(blueprint, Slice(shards), clock, Context(tmp_path / "calm"))[1])
    for fatal in (7, 19):
        context = Context(tmp_path / "killed", checkpoint_seconds=0.0, stop_asked=Dies(fatal))
        with pytest.raises(Killed):
            train(blueprint, Slice(shards), clock, context)
    context = Context(tmp_path / "killed", checkpoint_seconds=0.0)
    summary, model = train(blueprint, Slice(shards), clock, context)
    assert summary.steps == 30
    assert all(torch.equal(x, y) for x, y in zip(undisturbed, weights(model), strict=True))
    events = read_journal(tmp_path / "killed" / "journal.jsonl")
    steps_recorded = [event["step"] for event in events if event["event"] == "step"]
    assert steps_recorded == sorted(set(steps_recorded))


def test_resuming_with_other_settings_is_refused(shards: Shards, tmp_path: Path) -> None:
    context = Context(tmp_path / "run", checkpoint_seconds=0.0)
    train(tiny_blueprint(), Slice(shards), TokenCount(3 * STEP), context)
    with pytest.raises(ValueError, match="another training"):
        train(tiny_blueprint(gradient_norm=0.5), Slice(shards), TokenCount(6 * STEP), context)


@pytest.mark.parametrize(("checkpoint_seconds", "kept"), [(None, 0), (60.0, 1)])
def test_a_training_asked_to_stop_ends_early_and_can_go_on_if_it_keeps_checkpoints(
    checkpoint_seconds: float | None, kept: int, shards: Shards, tmp_path: Path
) -> None:
    context = Context(tmp_path / "run", checkpoint_seconds=checkpoint_seconds, stop_asked=lambda: True)
    summary, _ = train(tiny_blueprint(), Slice(shards), TokenCount(1000 * STEP), context)
    assert summary.stopped
    assert summary.steps == 1
    assert len(list((tmp_path / "run").glob("checkpoints/step-*"))) == kept


def test_the_wall_clock_ends_on_time_and_the_rate_reaches_its_end(shards: Shards, tmp_path: Path) -> None:
    seen: list[Event] = []
    context = Context(tmp_path / "run", observe=seen.append)
    deadline = time.time() + 1.5
    blueprint = tiny_blueprint()
    train(blueprint, Slice(shards), Wall(deadline), context)
    assert abs(time.time() - deadline) < 0.5
    for before, event in pairwise(seen):
        assert event["rate"] == blueprint.learning.schedule.rate(before["progress"])
    assert seen[-1]["progress"] == 1.0


def test_a_loss_that_is_not_finite_stops_at_its_step(shards: Shards, tmp_path: Path) -> None:
    wild = tiny_blueprint(
        optimizer={"kind": "adamw", "learning_rate": 1.0, "weight_decay": 10.0}, gradient_norm=1e30
    )
    with pytest.raises(FloatingPointError, match="at step"):
        train(wild, Slice(shards), TokenCount(3000 * STEP), Context(tmp_path / "run"))


def test_unsettled_settings_are_refused(shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"learning\.context"):
        train(tiny_blueprint(context=None), Slice(shards), TokenCount(STEP), Context(tmp_path / "run"))


def test_packing_by_documents_is_refused_where_the_model_looks_beyond_them(
    shards: Shards, tmp_path: Path
) -> None:
    runs_on = tiny_blueprint(packing="documents").model_copy(
        update={"model": Scratch(family="lfm2", depth=1)}
    )
    with pytest.raises(ValueError, match="lfm2 looks beyond a document: use blocks"):
        train(runs_on, Slice(shards), TokenCount(STEP), Context(tmp_path / "run"))


def _rank(rank: int, folder: Path, shards: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    blueprint = tiny_blueprint(optimizer={"kind": "adamw"})
    context = Context(folder / "two", rank=rank, world_size=2)
    watch = Watch(Slice(Shards(shards), "validation"), tokens=1024)
    summary, model = train(blueprint, Slice(Shards(shards)), TokenCount(20 * STEP), context, watch)
    if rank == 0:
        scores = {"score": torch.tensor(summary.validation_bits)}
        save_file(
            scores | {name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "out"
        )
    dist.destroy_process_group()


def test_two_workers_learn_what_one_learns(shards: Shards, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    spawn(_rank, args=(tmp_path, shards.folder), nprocs=2)  # type: ignore[no-untyped-call]
    blueprint = tiny_blueprint(optimizer={"kind": "adamw"})
    watch = Watch(Slice(shards, "validation"), tokens=1024)
    summary, model = train(blueprint, Slice(shards), TokenCount(20 * STEP), Context(tmp_path / "one"), watch)
    together = load_file(tmp_path / "out")
    assert together.pop("score").item() == pytest.approx(summary.validation_bits, rel=1e-4)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-5)


def test_rows_fit_the_batch_and_every_rank() -> None:
    assert rows_of(2048 / 256, 2) == 8
    assert rows_of(2048 / 256, 3) == 6
    assert rows_of(100 / 256, 2) == 2


def test_an_assignment_scores_the_fold_it_left_out(shards: Shards, tmp_path: Path) -> None:
    assignment = Assignment(
        folder=tmp_path / "fold",
        blueprint=tiny_blueprint(),
        shards=shards.folder,
        clock=TokenCount(5 * STEP),
        without_fold=1,
        looks=(),
        held_out_tokens=2000,
    )
    outcome = carry_out(assignment)
    assert outcome.documents == len(Slice(shards, only_fold=1).documents())
    assert 1 < outcome.nats / outcome.weight < 8
    stopped = replace(assignment, folder=tmp_path / "stopped")
    stopped.folder.mkdir()
    (stopped.folder / "stop").touch()
    assert carry_out(stopped).documents == 0
