"""`shoestring ui` as a user meets it: pages up, a form that starts a real training, and nothing left behind."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import refresh_global_settings_context
from prefect.states import AwaitingRetry, Cancelling, Suspended

from tasks import ui
from tasks.alive import FILE, PAUSING, at_work
from tasks.artifacts import InputError
from tasks.processes import ROOT, Process, bound_socket, spawn

UP_SECONDS = 150
RUN_SECONDS = 240
BUDGET = "75s"
CANCEL_SECONDS = 10  # to the end of every process
SAID_SECONDS = 60  # to the state that says so: a worker imports the flow first, for its hooks
DEPLOYMENTS = [
    "train-on-demand",
    "train-on-one-gpu",
    "train-on-ray-cluster",
    "train-nightly",
    "retrain-where-due",
    "compare-budgets",
]


def shoestring(*words: str) -> list[str]:
    return [sys.executable, "-m", "flows", *words]


def test_a_wanted_mlflow_port_in_use_stops_at_the_door(fresh_home: Path) -> None:
    with bound_socket(None, "--any") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} is in use .*--mlflow-port"):
            ui.run_ui(mlflow_port=port)
    assert not (fresh_home / "server.json").exists()


def test_stopping_sweeps_up_after_a_killed_ui_and_only_after_it(fresh_home: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    left, other = spawn(sleeper, "worker", {}), spawn(sleeper, "other", {})
    gone = {"pid": left.pid, "created": left.created - 1000}  # the ui's number, since taken by another
    state = {"ui": gone, "children": {"worker": vars(left), "mlflow": {**vars(other), "created": 0.0}}}
    (fresh_home / "ui.json").write_text(json.dumps(state))
    try:
        assert ui.stop_ui()
        assert not left.alive() and other.alive()
        assert not ui.stop_ui()
    finally:
        left.stop()
        other.stop()


def test_the_deployments_hold_no_path_and_no_running_schedule() -> None:
    deployed = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    assert [deployment["name"] for deployment in deployed["deployments"]] == DEPLOYMENTS
    for deployment in deployed["deployments"]:
        path, name = deployment["entrypoint"].split(":")
        assert f"def {name}(" in (ROOT / path).read_text()
        assert deployment["work_pool"]["name"] in (ui.POOL, ui.CLUSTER_POOL)
        assert deployment["tags"][0] == "shoestring" and deployment["description"].endswith(".")
        assert not any(schedule["active"] for schedule in deployment.get("schedules", []))
    assert deployed["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "."}}]


@pytest.mark.slow
def test_everything_deploys_and_no_pool_takes_two_runs_at_once(prefect_server: str, fresh_home: Path) -> None:
    ui.deploy()
    with get_client(sync_client=True) as client:
        deployed = {found.name: found for found in client.read_deployments()}
        assert sorted(deployed) == sorted(DEPLOYMENTS)
        for found in deployed.values():
            assert found.parameter_openapi_schema and found.parameter_openapi_schema["properties"]
            assert not any(schedule.active for schedule in found.schedules)
            assert client.read_work_pool(str(found.work_pool_name)).concurrency_limit == 1
        cluster = deployed["train-on-ray-cluster"]
        assert cluster.work_pool_name == ui.CLUSTER_POOL
        assert cluster.job_variables["env"]["RAY_ADDRESS"] == "auto"
        assert deployed["train-on-one-gpu"].parameters["compute"] == {"device": "cuda", "workers": 1}


@pytest.fixture
def opened(fresh_home: Path) -> Iterator[subprocess.Popen[str]]:
    """A `shoestring ui` that says it is up."""
    output = fresh_home / "ui.out"
    with output.open("w") as file:
        process = subprocess.Popen(shoestring("ui"), cwd=ROOT, stdout=file, stderr=file, text=True)
    deadline = time.monotonic() + UP_SECONDS
    while "ctrl-c closes" not in output.read_text():
        assert process.poll() is None and time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)
    yield process
    subprocess.run(shoestring("ui", "--stop"), cwd=ROOT, check=True, capture_output=True)
    process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(UP_SECONDS + RUN_SECONDS + 60)
def test_a_run_from_the_form_completes_and_stop_leaves_nothing_behind(
    opened: subprocess.Popen[str], fresh_home: Path, corpus_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = json.loads((fresh_home / "ui.json").read_text())
    server = json.loads((fresh_home / "server.json").read_text())
    ours = [Process(**child) for child in state["children"].values()] + [
        Process(server["pid"], server["created"])
    ]
    monkeypatch.setenv("PREFECT_API_URL", server["url"])
    again = subprocess.run(shoestring("ui"), cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and "open in this home already" in again.stderr
    mlflow = re.findall(r"MLflow +(http://127.0.0.1:\d+)", (fresh_home / "ui.out").read_text())[0]
    with urllib.request.urlopen(f"{mlflow}/health") as answer:
        assert answer.status == 200

    run = started_run({"budget": BUDGET, "source": {"kind": "files", "paths": [str(corpus_files)]}})
    assert run.state_name == "Completed", (fresh_home / "logs" / "worker.log").read_text()[-3000:]
    assert (fresh_home / "runs" / str(run.id) / "registered.json").exists()

    subprocess.run(shoestring("ui", "--stop"), cwd=ROOT, check=True, capture_output=True)
    assert opened.wait(30) == 0
    assert not [process for process in ours if process.alive()]
    assert not (fresh_home / "server.json").exists() and not (fresh_home / "ui.json").exists()


def started_run(parameters: dict[str, Any]) -> Any:
    """The finished run of `train-on-demand`; a value out of bounds is refused when it is created."""
    from prefect.exceptions import PrefectHTTPStatusError

    refresh_global_settings_context()
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("train-best-model/train-on-demand")
        with pytest.raises(PrefectHTTPStatusError, match="409"):
            client.create_flow_run_from_deployment(deployment.id, parameters={"compute": {"workers": 0}})
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline and not (run.state and run.state.is_final()):
            time.sleep(1)
            run = client.read_flow_run(run.id)
        return run


@pytest.mark.slow
@pytest.mark.timeout(UP_SECONDS + 3 * RUN_SECONDS)
@pytest.mark.usefixtures("opened")
def test_cancelling_on_the_page_stops_the_training_at_once_and_retrying_begins_it_again(
    fresh_home: Path, corpus_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", json.loads((fresh_home / "server.json").read_text())["url"])
    refresh_global_settings_context()
    parameters = {
        "budget": "20m",
        "source": {"kind": "files", "paths": [str(corpus_files)]},
        "search": {"share": 0},
        "validation": {"folds": 0, "test_share": 0.1},
    }
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("train-best-model/train-on-demand")
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        processes = training(fresh_home, run.id)
        client.set_flow_run_state(run.id, Cancelling())
        assert not psutil.wait_procs(processes, CANCEL_SECONDS)[1]
        wait_for(client, run.id, "Cancelled", seconds=SAID_SECONDS)

        client.set_flow_run_state(run.id, AwaitingRetry())
        processes = training(fresh_home, run.id)
        client.set_flow_run_state(run.id, Suspended(timeout_seconds=300))
        wait_for(client, run.id, "Suspended", PAUSING)
        assert all(process.is_running() for process in processes)  # a clock does not pause
        client.set_flow_run_state(run.id, Cancelling())
        assert not psutil.wait_procs(processes, CANCEL_SECONDS)[1]
        wait_for(client, run.id, "Cancelled")


def training(home_folder: Path, run: UUID) -> list[psutil.Process]:
    """A run's process with all below it, once it has gone on training."""
    folder, began = home_folder / "runs" / str(run), time.time()

    def trains() -> bool:
        journals = folder.rglob("journal.jsonl")
        return at_work(str(run)) and any(journal.stat().st_mtime > began for journal in journals)

    while not trains():
        assert time.time() < began + RUN_SECONDS, (home_folder / "logs" / "worker.log").read_text()[-3000:]
        time.sleep(0.5)
    process = psutil.Process(json.loads((folder / FILE).read_text())["pid"])
    return [process, *process.children(recursive=True)]


def wait_for(
    client: SyncPrefectClient,
    run: UUID,
    state: str,
    message: str | None = None,
    seconds: float = CANCEL_SECONDS,
) -> None:
    """Until a run is in a state, with this message if one is given."""
    deadline = time.monotonic() + seconds
    while (
        (found := client.read_flow_run(run).state) is None
        or found.name != state
        or (message is not None and found.message != message)
    ):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
