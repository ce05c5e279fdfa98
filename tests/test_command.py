"""The command as a user meets it: what is wrong gets one clear message, exit code 2, and nothing is lost."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks import launch
from tasks.artifacts import InputError
from tasks.tracking import PARENT_TAG

SHOESTRING = [sys.executable, "-m", "flows"]
OURS_TO_SET = ("SHOESTRING_", "PREFECT_", "MLFLOW_", "RAY_")


def a_users_environment() -> dict[str, str]:
    """The environment without what the tests' own session has set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS_TO_SET)}


def shoestring(*words: str, home: Path, **options: float) -> subprocess.CompletedProcess[str]:
    command = [*SHOESTRING, *words, "--home", str(home)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=options.get("timeout", 120),
        check=False,
        env=a_users_environment(),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "0"], "the smallest that can work is 60s"),
        (["--budget", "5 parsecs"], "such as 90s, 5m or 1h30m"),
        (["--budget", "1s"], "the smallest that can work is 60s"),
        (["no-such-recipe"], "give a YAML file, or one of"),
        (["--set", "nonsense"], "write section.field=value"),
        (["--resume", "last"], "there is no one run"),
    ],
)
def test_what_cannot_work_is_said_at_once(words: list[str], message: str, tmp_path: Path) -> None:
    done = shoestring("run", *words, home=tmp_path / "home")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ablate", "--budget", "1s"], "the smallest that can work is 60s"),
        (["frontier", "--budgets", "1m2m"], "put commas between several"),
        (["frontier", "--budgets", "2m"], "give two or more"),
    ],
)
def test_comparisons_that_cannot_work_are_refused_at_once(
    words: list[str], message: str, tmp_path: Path
) -> None:
    done = shoestring(*words, home=tmp_path / "home")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = shoestring("run", home=tmp_path / "file" / "home")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "--home" in done.stderr


def test_a_disk_that_is_full_is_said_before_any_compute(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "SMALLEST_DISK_BYTES", 1e18)
    with pytest.raises(InputError, match="free space"):
        launch.read_request("python-code", None, None, [])


def some_texts(folder: Path) -> Path:
    """Fewer than a training takes."""
    folder.mkdir()
    for number in range(120):
        words = random.Random(number).choices(
            ["some", "few", "plain", "words", "that", "differ", "from", "text", "to", "text"], k=20
        )
        (folder / f"{number}.txt").write_text(" ".join(words))
    return folder


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("source.paths=no/missing.txt", "missing.txt"),
        ("source.paths=no", "holds no file that can be read"),
        ("learning.optimzer.kind=muon", "did you mean 'optimizer'"),
        pytest.param("compute.workers=1000", "ask for at most", marks=pytest.mark.slow),
        pytest.param("seed=0", "tokens", marks=pytest.mark.slow),  # how much text is needed
    ],
)
def test_bad_data_and_settings_stop_at_the_door(tmp_path: Path, setting: str, message: str) -> None:
    (tmp_path / "no").mkdir()
    given = ["--set", f"source.paths={some_texts(tmp_path / 'texts')}", "--set"]
    given += [setting.replace("=no", f"={tmp_path}/no")]
    done = shoestring("run", "my-text", *given, home=tmp_path / "home")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def start_run(home: Path, *words: str, name: str = "run") -> subprocess.Popen[str]:
    command = [*SHOESTRING, name, *words, "--home", str(home), "--json"]
    ready = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    return subprocess.Popen(
        command,
        env=a_users_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=ready,
        start_new_session=True,
    )


def wait_for_checkpoint(home: Path, seconds: float = 150) -> Path:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in home.glob("runs/*/final/checkpoints/step-*"):
            return path.parents[2]
        time.sleep(0.2)
    raise AssertionError("the final run wrote no checkpoint")


def states(home: Path) -> tuple[str, str]:
    """The last run's state in Prefect and in MLflow, where trials and folds have runs of their own."""
    with sqlite3.connect(home / "prefect" / "prefect.db") as prefect:
        flow = prefect.execute("select state_type from flow_run order by created desc").fetchone()[0]
    with sqlite3.connect(home / "mlflow.db") as mlflow:
        children = f"select run_uuid from tags where key = '{PARENT_TAG}'"
        run = mlflow.execute(
            f"select status from runs where run_uuid not in ({children}) order by start_time desc"
        ).fetchone()[0]
    return flow, run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_ends_everything_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    run = start_run(tmp_path, "--budget", "2m")
    wait_for_checkpoint(tmp_path)
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "--resume" in errors
    assert states(tmp_path) == ("CANCELLED", "KILLED")
    time.sleep(1)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    done = shoestring("run", "--resume", "last", "--json", home=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "kept from earlier" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["aliases"] == ["challenger", "champion"]
    assert states(tmp_path) == ("COMPLETED", "FINISHED")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_whole_goes_on_with_what_was_left(tmp_path: Path) -> None:
    run = start_run(tmp_path, "--budget", "2m")
    folder = wait_for_checkpoint(tmp_path)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait(10)
    used = json.loads((folder / "clock.json").read_text())["used_seconds"]
    began = time.monotonic()
    done = shoestring("run", "--resume", folder.name, "--json", home=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 120 - used + 20
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["flow_run_id"] == folder.name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_final_run_survives_the_death_of_a_worker(tmp_path: Path) -> None:
    run = start_run(tmp_path, "--budget", "150s")
    folder = wait_for_checkpoint(tmp_path)
    workers = [
        child
        for child in psutil.Process(run.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    out, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors
    found = json.loads(out.splitlines()[-1])
    assert found["aliases"] == ["challenger", "champion"]
    assert found["elapsed_seconds"] < 1.1 * 150
    steps = [
        json.loads(line)["step"] for line in (folder / "final" / "journal.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps)


def wait_for_model(home: Path, seconds: float = 150) -> Path:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in home.glob("runs/*/*/**/model/config.json"):
            return home / "runs" / path.relative_to(home / "runs").parts[0]
        time.sleep(0.1)
    raise AssertionError("the run left no model")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("wait", [wait_for_model, wait_for_checkpoint])
def test_a_run_killed_whole_can_be_finished_in_seconds(wait: Callable[[Path], Path], tmp_path: Path) -> None:
    run = start_run(tmp_path, "--budget", "3m")
    folder = wait(tmp_path)
    alive = shoestring("finish", "last", home=tmp_path)
    assert alive.returncode == 2 and "still running" in alive.stderr
    os.killpg(run.pid, signal.SIGKILL)
    run.wait(10)
    began = time.monotonic()
    done = shoestring("finish", folder.name[:8], "--json", home=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["aliases"] == ["challenger", "champion"] and found["tokens_trained"] > 0
    said = shoestring("generate", "def f(", "--tokens", "5", home=tmp_path)
    assert said.returncode == 0 and said.stdout.startswith("def f(")
    again = shoestring("run", "--resume", "last", home=tmp_path)
    assert again.returncode == 2 and "is finished" in again.stderr
