"""Two machines, of which one dies: the same command, with addresses in place of the laptop's own files."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.processes import ROOT
from tests.real_servers import GATEWAY, HEAD, WHY_NOT, Host, Servers, hosts, servers

BUDGET_SECONDS = 150
RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = "a-token-of-the-test-that-is-long-enough"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host, Servers, Path]]:
    """Head and another host, of one core each, that share a folder, and the servers."""
    folder = tmp_path_factory.mktemp("machines")
    with hosts() as (head, other), servers(folder) as found:
        start_ray(head, folder, "--head", "--port=6379", "--include-dashboard=false")
        start_ray(other, folder, f"--address={HEAD}:6379")
        yield head, other, found, folder


def start_ray(host: Host, folder: Path, *words: str) -> None:
    """As deployments/README.md says."""
    command = [RAY, "start", *words, f"--node-ip-address={host.address}", "--num-cpus=1"]
    command += ["--object-store-memory=134217728", "--disable-usage-stats"]
    with (folder / f"{host.name}.log").open("wb") as log:
        subprocess.run(
            host.command(*command), env=environment(host), stdout=log, stderr=log, check=True, timeout=120
        )


def environment(host: Host, **settings: str) -> dict[str, str]:
    """Of a host: Gloo takes the first network that it finds unless told."""
    network = "shoe0in" if host.address == HEAD else "shoe1in"
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("SHOESTRING_", "RAY_"))
    }
    return clean | {
        "GLOO_SOCKET_IFNAME": network,
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_AUTH_MODE": "token",
        "NO_PROXY": f"{GATEWAY},{HEAD},10.213.77.3,127.0.0.1",
        **settings,
    }


@pytest.mark.timeout(BUDGET_SECONDS + 300)
def test_a_run_outlives_a_machine_of_its_cluster(
    machines: tuple[Host, Host, Servers, Path], corpus_texts: list[str]
) -> None:
    head, other, found, folder = machines
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus_texts))
    place = folder / "home"
    words = ["run", "my-text", "--set", f"source.paths={source}", "--set", "model.depth=1"]
    words += [
        "--set",
        "validation.folds=0",
        "--set",
        "search.share=0",
        "--budget",
        f"{BUDGET_SECONDS}s",
        "--json",
    ]
    command = head.command(sys.executable, "-m", "flows", *words, "--home", str(place))
    settings = environment(head, RAY_ADDRESS=f"{HEAD}:6379", **found.environment)
    began = time.monotonic()
    with (folder / "run.log").open("w") as said, (folder / "run.err").open("w") as log:
        run = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=said, stderr=log)
        journal = wait_for_steps(place, run, folder / "run.err")
        before = len(journal.read_text().splitlines())
        other.kill()
        assert run.wait(BUDGET_SECONDS + 120) == 0, (folder / "run.err").read_text()[-4000:]
    elapsed = time.monotonic() - began
    result = json.loads((folder / "run.log").read_text().splitlines()[-1])
    steps = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(steps) > before + 20  # went on, on what was left
    assert elapsed < 1.02 * BUDGET_SECONDS + 15
    assert result["model_version"] == 1
    assert search_runs(found.mlflow)  # in PostgreSQL
    assert "model.safetensors" in listing(found.store)  # in the object store


def wait_for_steps(place: Path, run: subprocess.Popen[bytes], log: Path) -> Path:
    """The journal of the final run, as soon as it has some steps with a checkpoint behind them."""
    deadline = time.monotonic() + BUDGET_SECONDS
    while True:
        found = list(place.glob("runs/*/final/journal.jsonl"))
        kept = list(place.glob("runs/*/final/checkpoints/*"))
        if found and kept and len(found[0].read_text().splitlines()) > 20:
            return found[0]
        assert run.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.5)


def search_runs(mlflow: str) -> list[dict[str, Any]]:
    body = json.dumps({"experiment_ids": [str(n) for n in range(5)], "max_results": 100}).encode()
    request = urllib.request.Request(
        f"{mlflow}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        found: list[dict[str, Any]] = json.load(answer).get("runs", [])
    return found


def listing(store: str) -> str:
    with urllib.request.urlopen(f"{store}/shoestring?list-type=2") as answer:
        return str(answer.read().decode())
