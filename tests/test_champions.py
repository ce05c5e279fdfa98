"""Champions by hand: promote, rollback and history, against a real registry of tiny models; and kills at any moment."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.__main__ import app
from tasks import tracking
from tasks.artifacts import InputError
from tasks.champions import CHAMPIONS_TAG, champions, history, name_champion, promote, rollback
from tasks.generate import load, resolve_model
from tasks.register import Promotion, register
from tests import tiny_run

FULL = "shoestring-throne"


@pytest.fixture(scope="module")
def works(module_home: Path) -> list[tiny_run.Work]:
    """Three runs that differ in their seeds alone."""
    return [tiny_run.judged(f"run-{number}", 0, seed=number) for number in range(3)]


def registered(name: str, works: list[tiny_run.Work]) -> str:
    """All of them under a name; the first is champion."""
    for work in works:
        register(*work, Promotion(name=name))
    return name


@pytest.fixture(scope="module")
def throne(works: list[tiny_run.Work]) -> str:
    return registered("throne", works)


@pytest.fixture
def first(throne: str) -> Iterator[str]:
    """The same, after whatever a test does to it."""
    yield throne
    client = tracking.client()
    client.set_registered_model_alias(FULL, "champion", "1")
    client.set_registered_model_tag(FULL, CHAMPIONS_TAG, "[1]")


def champion() -> int:
    return int(tracking.client().get_model_version_by_alias(FULL, "champion").version)


def test_rollback_goes_back_one_champion_at_a_time(first: str) -> None:
    assert "version 3 is champion, instead of version 1" in promote(first, None, None)
    promote(first, 2, "reads better")
    assert champion() == 2
    assert "version 3 is champion again, instead of version 2" in rollback(first, "it repeats itself")
    assert "version 1 is champion again" in rollback(first, None)
    assert champion() == 1
    with pytest.raises(InputError, match="no champion before version 1"):
        rollback(first, None)
    assert champion() == 1


def test_one_that_was_champion_twice_is_gone_back_to_once_each(first: str) -> None:
    promote(first, 2, None)
    promote(first, 1, None)
    assert [rollback(first, None)[-1], rollback(first, None)[-1]] == ["1", "2"]  # instead of
    assert champion() == 1
    with pytest.raises(InputError, match="nothing to go back to"):
        rollback(first, None)


def test_moves_by_hand_say_who_when_and_why(first: str) -> None:
    promote(first, 3, "a demo")
    rollback(first, "the demo is over")
    rows = {row["version"]: row for row in history(first)}
    (promoted,) = [move for move in rows[3]["moves"] if move["why"] == "a demo"]
    assert promoted["how"] == "promote"
    assert promoted["who"]
    assert promoted["when"].startswith("20")
    assert promoted["instead_of"] == 1
    (back,) = [move for move in rows[1]["moves"] if move["why"] == "the demo is over"]
    assert (back["how"], back["instead_of"]) == ("rollback", 3)


def test_history_is_a_table_of_all_versions(first: str) -> None:
    rows = history(first)
    assert [row["version"] for row in rows] == [3, 2, 1]
    assert [row["aliases"] for row in rows] == [["challenger"], [], ["champion"]]
    assert rows[2]["verdict"] == "champion, as the first of its name"
    assert {row["unit"] for row in rows} == {"bits per byte"}
    assert all(row["score"] > 0 and row["run"] for row in rows)
    done = CliRunner().invoke(app, ["history", FULL, "--json"])
    assert json.loads(done.output.splitlines()[-1]) == rows
    shown = CliRunner().invoke(app, ["history", first], env={"COLUMNS": "200"})
    assert f"{rows[0]['score']:.4f} bits per byte" in shown.output


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("nobody", None, "there is no model 'nobody'"),
        ("throne", 9, "has no version 9, only 1, 2, 3"),
        ("throne", 1, "is the champion already"),
    ],
)
def test_what_cannot_be_promoted_is_said(first: str, name: str, version: int | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        promote(name, version, None)


def test_a_model_that_does_not_load_is_not_promoted(works: list[tiny_run.Work]) -> None:
    registered("torn", works[:2])
    root = tracking.client().get_model_version_download_uri("shoestring-torn", "2")
    for weights in Path(root.removeprefix("file://")).rglob("*.safetensors"):
        weights.write_bytes(b"\x08" + bytes(20))
    with pytest.raises(InputError, match="version 2 of shoestring-torn does not load"):
        promote("torn", None, None)
    assert champions(tracking.client(), "shoestring-torn") == [1]


def test_the_alias_alone_decides_who_is_champion(first: str) -> None:
    """The list is behind or ahead of the alias where a move was killed, or somebody moved it on MLflow's page."""
    client = tracking.client()
    for known, alias, found in (
        ("[1, 2]", "1", [1]),  # killed before the alias moved
        ("[1, 2, 3]", "2", [1, 2]),  # killed after it moved back
        ("[1, 2, 1]", "1", [1, 2, 1]),
        ("[1]", "3", [1, 3]),  # on the page
        ("[]", "2", [2]),
    ):
        client.set_registered_model_tag(FULL, CHAMPIONS_TAG, known)
        client.set_registered_model_alias(FULL, "champion", alias)
        assert champions(client, FULL) == found
    name_champion(client, FULL, 3)
    assert champions(client, FULL) == [2, 3]


def test_deleted_versions_are_passed_over(works: list[tiny_run.Work]) -> None:
    name = registered("deleted", works)
    promote(name, 2, None)
    promote(name, 3, None)
    tracking.client().delete_model_version("shoestring-deleted", "2")
    assert "version 1 is champion again" in rollback(name, None)


REGISTER = """
import sys
from tasks.artifacts import Report, Trained
from tasks.register import Promotion, register
import mlflow.transformers
folder = sys.argv[1]
trained = Trained.model_validate_json(open(folder + "/trained.json").read())
report = Report.model_validate_json(open(folder + "/report.json").read())
print("go", flush=True)
print(register(trained, report, Promotion(name="killed")).version, flush=True)
"""


def start_registering(run_id: str, work: tiny_run.Work, folder: Path) -> "subprocess.Popen[str]":
    """Registers in a process of its own, which has imported all it needs once it says so."""
    place = folder / run_id
    place.mkdir(exist_ok=True)
    for name, record in zip(("trained", "report"), work, strict=True):
        (place / f"{name}.json").write_text(record.model_dump_json())
    started = subprocess.Popen(
        [sys.executable, "-c", REGISTER, str(place)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "go\n"
    return started


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_champion_that_loads(module_home: Path, tmp_path: Path) -> None:
    """Better and better models are registered, each killed at random moments until it gets through."""
    dice = random.Random(0)
    register(*tiny_run.judged("run-k0", 0), Promotion(name="killed"))
    expected, took, kills = 1, 1.0, 0
    for number in range(1, 4):
        work = tiny_run.judged(f"run-k{number}", (4, 10, 40)[number - 1])
        for _ in range(4):
            process = start_registering(f"run-k{number}", work, tmp_path)
            time.sleep(dice.uniform(0, took))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            shutil.rmtree(
                module_home / "store" / "models", ignore_errors=True
            )  # nothing but the registry helps
            load(resolve_model("killed@champion"))
            known = champions(tracking.client(), "shoestring-killed")
            assert known[-1] in (expected, number + 1)
        process = start_registering(f"run-k{number}", work, tmp_path)
        began = time.monotonic()
        assert process.wait() == 0
        took = time.monotonic() - began
        expected = champions(tracking.client(), "shoestring-killed")[-1]
        newest = tracking.client().get_model_version("shoestring-killed", str(number + 1))
        assert expected == number + 1, newest.tags
    assert kills >= 6
    versions = tracking.client().search_model_versions("name = 'shoestring-killed'")
    assert sorted(int(version.version) for version in versions) == [1, 2, 3, 4]
    assert champions(tracking.client(), "shoestring-killed") == [1, 2, 3, 4]
