"""Trainings that are really killed, in processes of their own, end with the bits of those left in peace."""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from tasks.telemetry import Stage
from tasks.verify import Blow, Group, disturb, in_peace, prove
from tests.tiny_shards import tiny_blueprint, write_shards
from training.blueprint import Blueprint
from training.budget import TokenCount
from training.data import Shards, Slice
from training.objectives import CausalLanguageModel, Objective
from training.worker import Assignment

STEPS = 60
VARIANTS: dict[str, dict[str, object]] = {
    "muon": {},
    "adamw": {"optimizer": {"kind": "adamw"}},
    "average": {"average": 0.1, "patience": 100},
    "accumulation": {"micro_batch_tokens": 32},
    "dropout": {"dropout": 0.1, "label_smoothing": 0.1, "l1": 1e-4},
    "bf16": {"precision": "bf16"},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, corpus_texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(folder, corpus_texts[:60])
    (folder / "tokenizer").mkdir()
    return folder


def assignment(folder: Path, shards: Path, blueprint: Blueprint) -> Assignment:
    return Assignment(
        folder=folder,
        blueprint=blueprint,
        shards=shards,
        clock=TokenCount(STEPS * 128),
        looks=(0.3, 0.6, 1.0),
        watched_tokens=256,
        checkpoint_seconds=0.05,
        keep_model=True,
    )


def test_the_proof_of_a_sound_training_holds(shards: Path, tmp_path: Path) -> None:
    checks = prove(assignment(tmp_path, shards, tiny_blueprint()), kills=3, seed=1)
    assert [check.faults for check in checks] == [()] * 3
    assert [len(check.blows) for check in checks] == [3, 1, 2]
    assert [check.workers for check in checks] == [1, 1, 2]
    assert checks[1].steps_redone == (0,)
    assert checks[0].sha256 == checks[0].undisturbed_sha256 != checks[2].sha256


def test_a_proof_can_fail(shards: Path, tmp_path: Path) -> None:
    mine = assignment(tmp_path / "mine", shards, tiny_blueprint())
    peace = in_peace(replace(mine, folder=tmp_path / "peace"), 1, STEPS)
    other = replace(mine, blueprint=mine.blueprint.model_copy(update={"seed": 5}))
    check = disturb("another seed", other, peace, [Blow(20)], random.Random(0))
    assert check.faults == ("the weights differ",)
    peaceful = replace(mine, folder=tmp_path / "rare", checkpoint_seconds=3600.0)
    never = disturb("never saved", peaceful, peace, [Blow(30)], random.Random(0))
    assert never.steps_redone[0] >= 30
    assert not never.faults


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_three_times_in_a_row_and_the_same_bits(variant: str, shards: Path, tmp_path: Path) -> None:
    mine = assignment(tmp_path / "killed", shards, tiny_blueprint(**VARIANTS[variant]))
    peace = in_peace(replace(mine, folder=tmp_path / "peace"), 1, STEPS)
    dice = random.Random(variant)
    blows = [Blow(step) for step in sorted(dice.sample(range(2, STEPS - 10), 3))]
    assert disturb(variant, mine, peace, blows, dice).faults == ()


def test_sigterm_saves_at_once_and_leaves_no_model(shards: Path, tmp_path: Path) -> None:
    mine = replace(assignment(tmp_path, shards, tiny_blueprint()), checkpoint_seconds=3600.0)
    mine = replace(mine, clock=TokenCount(10**9))
    group = Group(mine, 1, Stage("asked"), 10**9)
    group.start()
    group.wait(5)
    began = time.monotonic()
    os.kill(group.processes[0].pid or 0, signal.SIGTERM)
    assert group.end(10.0) == [0]
    assert time.monotonic() - began < 10
    assert group.kept()[0] == group.steps_done()[-1]["step"] >= 5
    assert not group.weights.exists()


@pytest.mark.parametrize("objective", get_args(get_args(Objective)[0]))
def test_another_worker_count_sees_the_same_samples_in_the_same_order(
    objective: type[CausalLanguageModel], shards: Path
) -> None:
    """Also the same masks: whatever is drawn hangs on the sample's place, not on who has it."""
    feed = objective().feed(Slice(Shards(shards)), tiny_blueprint().facts())
    place = 0
    for _ in range(5):
        whole = feed.batch(place, 12, 32, 0, 1)
        for workers in (2, 3, 4):
            for rank in range(workers):
                mine = feed.batch(place, 12, 32, rank, workers)
                their_targets = whole.targets[rank::workers]
                width = mine.targets.shape[-1] if mine.targets.ndim > 1 else None
                assert torch.equal(mine.targets, their_targets[..., :width] if width else their_targets)
                width = mine.inputs["input_ids"].shape[-1]
                assert torch.equal(mine.inputs["input_ids"], whole.inputs["input_ids"][rank::workers, :width])
        place, _ = feed.source.moved(place, 12, 32)
