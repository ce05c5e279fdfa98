"""Runs whose process is killed are marked, by what the home installs; healthy ones never."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import AwaitingRetry, Cancelling, Running, Suspended

from tasks import alive, home
from tasks.alive import FILE, Watch, at_work, hold
from tasks.processes import ROOT
from tests.test_server import own_home  # noqa: F401

HOLDER = (
    "import sys, time; from tasks.alive import hold; print(hold(sys.argv[1], 0), flush=True); time.sleep(60)"
)
A_FLOW = """
import sys, time
from tasks.home import use_home
use_home()
import prefect
from tasks.alive import announce

@prefect.flow(on_running=[announce])
def works(seconds: int):
    print(prefect.runtime.flow_run.id, flush=True)
    for _ in range(10 * seconds):
        time.sleep(0.1)

works(int(sys.argv[1]))
"""
MARKED_SECONDS = 60  # 120 are promised; 6 s on a quiet machine


@pytest.fixture
def started() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts Python with these words, and ends it after the test."""
    begun: list[subprocess.Popen[str]] = []

    def start(*words: str) -> "subprocess.Popen[str]":
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        begun.append(
            subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True)
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def waited_for(client: SyncPrefectClient, run: str, state: str, seconds: float = MARKED_SECONDS) -> FlowRun:
    deadline = time.monotonic() + seconds
    while (found := client.read_flow_run(UUID(run))).state_name != state:
        assert time.monotonic() < deadline, f"{found.state_name} instead of {state}"
        time.sleep(0.2)
    return found


def test_a_run_is_at_work_until_its_process_dies_and_in_one_process_only(
    module_home: Path, started: Callable[..., "subprocess.Popen[str]"]
) -> None:
    assert not at_work("r")
    holder = started("-c", HOLDER, "r")
    assert said(holder) == "True"
    assert at_work("r") and not hold("r", 0)
    assert json.loads((home.run_folder("r") / FILE).read_text())["pid"] == holder.pid
    holder.send_signal(signal.SIGSTOP)  # suspended, as a laptop is: alive
    assert at_work("r")
    holder.kill()
    holder.wait()
    assert not at_work("r")
    assert hold("r", 0) and at_work("r") and hold("r", 0)
    alive._held.pop("r").close()


def test_a_look_needs_no_server_where_there_is_nothing_to_say(fresh_home: Path) -> None:
    Watch("http://127.0.0.1:9/api").look()
    file = home.run_folder(str(uuid4())) / FILE
    file.parent.mkdir(parents=True)
    gone = alive.Carrier(pid=1, created=0.0, by_hand=True)
    file.write_text(json.dumps(vars(gone)))
    watch = Watch("http://127.0.0.1:9/api")
    watch.look()  # gone, for the first time
    watch.look_safely()  # for the second: nobody answers, and the file stays for the next look
    assert file.exists() and watch._gone == {file}
    file.write_text(json.dumps({**vars(gone), "host": "another machine"}))
    watch.look()
    assert not watch._gone


def test_a_run_that_registered_its_model_and_could_not_say_so_has_completed(
    fresh_home: Path, prefect_server: str
) -> None:
    with SyncPrefectClient(prefect_server) as client:
        run = client.create_flow_run(Flow(lambda: None, name="registers"), state=Running())
        folder = home.run_folder(str(run.id))
        folder.mkdir(parents=True)
        (folder / FILE).write_text(json.dumps(vars(alive.Carrier(pid=1, created=0.0, by_hand=True))))
        (folder / "registered.json").write_text("{}")
        watch = Watch(prefect_server)
        watch.look()
        watch.look()
        assert client.read_flow_run(run.id).state_name == "Completed"


def test_a_worker_has_time_to_say_that_it_has_cancelled_a_run(
    fresh_home: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said twice, it would be said of the run that somebody retries in between."""
    with SyncPrefectClient(prefect_server) as client:
        run = client.create_flow_run(Flow(lambda: None, name="is cancelled"), state=Running())
        client.set_flow_run_state(run.id, Cancelling())
        file = home.run_folder(str(run.id)) / FILE
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(vars(alive.Carrier(pid=1, created=0.0, by_hand=False))))
        watch = Watch(prefect_server)
        for _ in range(3):
            watch.look()
        assert client.read_flow_run(run.id).state_name == "Cancelling"
        monkeypatch.setattr(alive, "SETTLING_SECONDS", 0.0)  # the worker is gone too
        watch.look()
        assert client.read_flow_run(run.id).state_name == "Cancelled" and not file.exists()


@pytest.mark.timeout(200)
def test_a_killed_run_is_marked_and_can_be_retried_and_a_healthy_one_goes_on_until_it_is_cancelled(
    own_home: Path,  # noqa: F811
    tmp_path: Path,
    started: Callable[..., "subprocess.Popen[str]"],
) -> None:
    from tasks.server import prefect_server

    script = tmp_path / "works.py"
    script.write_text(A_FLOW)
    with prefect_server():
        killed_process, healthy_process = (started(str(script), "600") for _ in range(2))
        killed, healthy = said(killed_process), said(healthy_process)
        with get_client(sync_client=True) as client:
            assert all(client.read_flow_run(UUID(run)).state_name == "Running" for run in (killed, healthy))
            refused: Any = client.set_flow_run_state(UUID(healthy), Suspended())
            assert "without a deployment" in str(refused.details)  # the page says so
            killed_process.kill()
            found = waited_for(client, killed, "Crashed")
            assert found.state and "shoestring run --resume" in str(found.state.message)
            assert not (home.run_folder(killed) / FILE).exists()
            client.set_flow_run_state(UUID(killed), AwaitingRetry(), force=True)
            time.sleep(3 * alive.LOOK_SECONDS)
            assert client.read_flow_run(UUID(killed)).state_name == "AwaitingRetry"
            assert client.read_flow_run(UUID(healthy)).state_name == "Running"
            client.set_flow_run_state(UUID(healthy), Cancelling())
            healthy_process.wait(10)
            assert client.read_flow_run(UUID(healthy)).state_name != "Running"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_started_by_hand_ends_within_seconds_of_being_cancelled_on_the_page(
    own_home: Path,  # noqa: F811
    corpus_files: Path,
    started: Callable[..., "subprocess.Popen[str]"],
) -> None:
    given = (
        f"source.paths={corpus_files}",
        "search.share=0",
        "validation.folds=0",
        "validation.test_share=0.1",
    )
    words = [word for setting in given for word in ("--set", setting)]
    process = started("-m", "flows", "run", "my-text", "--budget", "20m", *words)
    deadline = time.monotonic() + 200
    while not list(own_home.glob("runs/*/**/journal.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    run = next(own_home.glob(f"runs/*/{FILE}")).parent.name
    family = psutil.Process(process.pid).children(recursive=True)
    mine = [one for one in family if "tasks.server" not in one.cmdline()]
    with SyncPrefectClient(json.loads((own_home / "server.json").read_text())["url"]) as client:
        client.set_flow_run_state(UUID(run), Cancelling())
    until = time.monotonic() + 10
    assert process.wait(10) == 130
    assert not psutil.wait_procs(mine, max(0.0, until - time.monotonic()))[1]
