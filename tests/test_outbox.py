"""What MLflow hears of a run arrives once, whether it was there or not."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import home, outbox, tracking
from tasks.artifacts import InputError
from tasks.outbox import Courier, Letter, Thinning
from tasks.processes import LOOPBACK
from training.journal import Event, Journal, read_journal

STARTED = 1_700_000_000.0


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(home.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(outbox, "ROUND_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def step(number: int, each: float = 0.1, last: int = 10**9) -> Event:
    figures = {"loss": 5 / number, "rate": 1.0, "gradient_norm": 0.5, "tokens": 100 * number}
    return {
        "event": "step",
        "step": number,
        "time": STARTED + each * number,
        "seconds": each * number,
        "progress": number / last,
        **figures,
    }


def write_steps(run_id: str, steps: range, journal: str = "final/journal.jsonl") -> Path:
    path = home.run_folder(run_id) / journal
    writing = Journal(path)
    for number in steps:
        writing.append(step(number))
    writing.close()
    return path


def letter(run_id: str, **fields: object) -> Letter:
    given = {"journal": "final/journal.jsonl", "started": STARTED, "run_name": run_id, **fields}
    return Letter.model_validate({"run_id": run_id, **given})


def picked(path: Path) -> list[int]:
    thinning = Thinning()
    return [event["step"] for event in read_journal(path) if thinning.picks(event)]


def in_mlflow(run_id: str, metric: str = "train/loss_nats") -> list[int]:
    run = tracking.start_parent(run_id, run_id, wake=False)
    return sorted(point.step for point in tracking.client().get_metric_history(run, metric))


def wait_until(true: object, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_curve_has_a_point_every_quarter_second_and_its_last() -> None:
    thinning = Thinning()
    chosen = [n for n in range(1, 101) if thinning.picks(step(n, each=0.06, last=100))]
    assert chosen == [*range(1, 100, 5), 100]
    slow = Thinning()
    assert all(slow.picks(step(n, each=0.3)) for n in range(1, 20))


def test_what_is_delivered_twice_arrives_once() -> None:
    path = write_steps("a", range(1, 60))
    for _ in range(2):
        outbox.post(letter("a"))
        outbox.finish("a", "FINISHED")
        assert in_mlflow("a") == picked(path)
    assert tracking.client().get_run(tracking.start_parent("a", "a", wake=False)).info.status == "FINISHED"
    assert not list(home.run_folder("a").glob("outbox/*.json"))


def test_steps_that_a_resumed_run_does_again_are_not_sent_again() -> None:
    path = write_steps("a", range(1, 60))
    outbox.post(letter("a"))
    outbox.finish("a", "KILLED")
    journal = Journal(path)
    journal.rewind(40)
    for number in range(41, 80):  # at another time, as it is done later
        journal.append({**step(number), "time": STARTED + 1000 + number})
    journal.close()
    outbox.post(letter("a"))
    outbox.finish("a", "FINISHED")
    steps = in_mlflow("a")
    assert len(steps) == len(set(steps))
    assert steps[-1] > 70


def test_a_child_lies_below_its_run_with_its_settings_and_its_score() -> None:
    write_steps("a", range(1, 20), "trials/0/journal.jsonl")
    outbox.post(letter("a"))
    outbox.post(
        letter(
            "a",
            child="trial-0",
            journal="trials/0/journal.jsonl",
            settings={"rate": "0.1"},
            scores={"score/bits_per_byte": 2.5},
            status="FINISHED",
            ended=STARTED + 9,
        )
    )
    outbox.finish("a", "FINISHED")
    parent = tracking.start_parent("a", "a", wake=False)
    client = tracking.client()
    child = client.get_run(tracking.start_child(parent, "trial-0"))
    assert child.data.params == {"rate": "0.1"}
    assert child.data.metrics["score/bits_per_byte"] == 2.5
    assert (child.info.start_time, child.info.end_time) == (int(1000 * STARTED), int(1000 * (STARTED + 9)))
    assert client.get_run(parent).info.status == "FINISHED"


def test_what_is_added_to_a_run_arrives_with_its_end() -> None:
    outbox.post(letter("a", scores={"worth/dropout": 0.1}))
    (home.run_folder("a") / "table.csv").write_text("a,b")
    outbox.add("a", {"worth/schedule": 0.2}, ("table.csv",))
    outbox.finish("a", "FINISHED")
    run = tracking.client().get_run(tracking.start_parent("a", "a", wake=False))
    assert run.data.metrics == {"worth/dropout": 0.1, "worth/schedule": 0.2}
    assert [file.path for file in tracking.client().list_artifacts(run.info.run_id)] == ["table.csv"]


def test_what_mlflow_refuses_stands_in_nobodys_way(caplog: pytest.LogCaptureFixture) -> None:
    path = write_steps("a", range(1, 20))
    outbox.post(letter("a", child="bad", settings={"no: such name?": "x"}, status="FINISHED", journal=""))
    outbox.post(letter("a"))
    outbox.finish("a", "FINISHED")
    assert in_mlflow("a") == picked(path)
    assert (home.run_folder("a") / "outbox" / "bad.refused").exists()


def test_the_next_run_delivers_what_a_killed_one_left() -> None:
    path = write_steps("killed", range(1, 60))
    outbox.post(letter("killed"))
    outbox.post(letter("next", journal=""))
    outbox.finish("next", "FINISHED")
    assert in_mlflow("killed") == picked(path)
    run = tracking.client().get_run(tracking.start_parent("killed", "killed", wake=False))
    assert run.info.status == "KILLED"


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])


class Server:
    """A real MLflow server that comes and goes."""

    def __init__(self, folder: Path, port: int) -> None:
        store = ("--backend-store-uri", f"sqlite:///{folder}/server.db")
        files = ("--artifacts-destination", str(folder / "files"))
        where = ("--host", LOOPBACK, "--port", str(port), "--workers", "1")
        self._command = [sys.executable, "-m", "mlflow", "server", *store, *files, *where]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{LOOPBACK}:{port}")
    one = Server(tmp_path, port)
    yield one
    one.kill()


@pytest.mark.timeout(180)
def test_an_outage_holds_nobody_up_and_loses_nothing(server: Server) -> None:
    """Away at the start, there for a while, killed, back at the end."""
    began = time.monotonic()
    courier = Courier.of("a")
    path = write_steps("a", range(1, 60))
    outbox.post(letter("a"))
    assert time.monotonic() - began < 0.5
    assert courier.place() is None
    assert time.monotonic() - began < 0.5 + outbox.PLACE_SECONDS

    server.start()
    wait_until(lambda: courier.place(0.1))
    server.kill()
    write_steps("a", range(60, 120))
    wait_until(lambda: courier.place(0.1) is None)
    server.start()
    write_steps("a", range(120, 180))
    wait_until(lambda: courier.place(0.1))
    wait_until(lambda: in_mlflow("a")[-1:] == picked(path)[-1:])
    outbox.finish("a", "FINISHED")
    assert in_mlflow("a") == picked(path)


def test_a_run_that_ends_in_an_outage_keeps_its_letters_and_says_so(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    write_steps("a", range(1, 9))
    outbox.post(letter("a"))
    began = time.monotonic()
    outbox.finish("a", "FAILED")
    assert time.monotonic() - began < outbox.CLOSING_SECONDS + 2
    kept = json.loads((home.run_folder("a") / "outbox" / "run.json").read_text())
    assert kept["status"] == "FAILED"
    assert "does not answer" in caplog.text


def test_registering_without_mlflow_says_what_is_wrong(server: Server) -> None:
    with pytest.raises(InputError, match=r"MLflow at http://.* does not answer"):
        tracking.client_that_answers()
