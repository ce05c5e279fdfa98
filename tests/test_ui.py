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

import pytest
import yaml

from tasks import ui
from tasks.artifacts import InputError
from tasks.processes import ROOT, Process, bound_socket, spawn

UP_SECONDS = 150
RUN_SECONDS = 240
BUDGET = "75s"
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
    from prefect.client.orchestration import get_client

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
    from prefect.client.orchestration import get_client
    from prefect.context import refresh_global_settings_context
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
