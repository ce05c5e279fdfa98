"""A Prefect server of somebody else's that goes away while a run trains: for half a minute, and for good."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.processes import LOOPBACK, ROOT
from tests.real_servers import running

PORT = 14999
API = f"http://{LOOPBACK}:{PORT}/api"
BUDGET_SECONDS = 100
AWAY_SECONDS = 30
GIVING_UP_SECONDS = 75  # three times Prefect tries for 14 s to say that the run has ended
pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUDGET_SECONDS + GIVING_UP_SECONDS + 240)]


@contextmanager
def server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server at PORT with its own database, told to end at the end."""
    settings = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    words = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    words += ["--host", LOOPBACK, "--port", str(PORT)]
    with running(words, folder.with_suffix(".log"), settings, f"{API}/health") as process:
        yield process


@contextmanager
def run(folder: Path, corpus: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A run under way, once its workers train; its lines are in `said` and `errors` below the folder."""
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus))
    command = [sys.executable, "-m", "flows", "run", "my-text", "--home", str(folder / "home"), "--json"]
    command += ["--budget", f"{BUDGET_SECONDS}s"]
    for setting in (f"source.paths={source}", "model.depth=1", "validation.folds=0", "search.share=0"):
        command += ["--set", setting]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SHOESTRING_")}
    with (folder / "said").open("w") as said, (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=said, stderr=errors, text=True, env=clean | {"PREFECT_API_URL": API}
        )
        try:
            while not list((folder / "home").glob("runs/*/final/journal.jsonl")):
                assert process.poll() is None, (folder / "errors").read_text()[-4000:]
                time.sleep(0.2)
            yield process
        finally:
            process.kill()
            process.wait()


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "said").read_text().splitlines()[-1])
    return found


def test_one_that_is_gone_for_good_costs_a_sentence_and_no_model(
    tmp_path: Path, corpus_texts: list[str]
) -> None:
    with server(tmp_path / "prefect") as there, run(tmp_path, corpus_texts) as process:
        there.kill()
        assert process.wait(BUDGET_SECONDS + GIVING_UP_SECONDS) == 0
    assert result(tmp_path)["model_version"] == 1
    errors = (tmp_path / "errors").read_text()
    assert errors.count("the Prefect server is gone") == 1
    assert not [
        word for word in ("Traceback", "ERROR", "Error logging", "failed to process") if word in errors
    ]


def test_one_that_comes_back_knows_how_the_run_ended(tmp_path: Path, corpus_texts: list[str]) -> None:
    with server(tmp_path / "prefect") as there, run(tmp_path, corpus_texts) as process:
        there.kill()
        time.sleep(AWAY_SECONDS)
        with server(tmp_path / "prefect"):
            assert process.wait(BUDGET_SECONDS + 60) == 0
            assert httpx.post(f"{API}/flow_runs/filter", json={}).json()[0]["state_type"] == "COMPLETED"
    assert result(tmp_path)["model_version"] == 1
    assert "Prefect server is gone" not in (tmp_path / "errors").read_text()
