"""Other machines are let in with a login, or not at all."""

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.artifacts import InputError
from tasks.exposure import LOGIN_VARIABLE, Exposure, exposed
from tasks.processes import ROOT

LOGIN = "jane:a-long-password"
EVERYBODY = "0.0.0.0"
UP_SECONDS = 120


def test_this_machine_needs_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOGIN_VARIABLE, raising=False)
    assert exposed("127.0.0.1") is None and exposed("localhost") is None


@pytest.mark.parametrize(
    ("login", "reason"),
    [
        (None, "with a name and a password only"),
        ("jane", "with a name and a password only"),
        (":a-long-password", "with a name and a password only"),
        ("jane:short", "has 5 characters: take 12 or more"),
    ],
)
def test_others_are_refused_without_one(
    login: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LOGIN_VARIABLE, raising=False)
    if login is not None:
        monkeypatch.setenv(LOGIN_VARIABLE, login)
    with pytest.raises(InputError, match=reason):
        exposed(EVERYBODY)


def test_a_cluster_without_its_token_is_not_exposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="unset it"):
        Exposure(EVERYBODY, LOGIN).check_pages()


def test_only_the_whole_login_lets_in() -> None:
    ours = Exposure(EVERYBODY, LOGIN)
    assert ours.lets_in(basic(LOGIN))
    for other in ("", "Basic ", "Basic jane", basic("jane:"), basic("jane:a-long-passwore"), LOGIN):
        assert not ours.lets_in(other)


@pytest.mark.parametrize("words", [["ui", "--expose", EVERYBODY], ["serve", "--host", EVERYBODY]])
def test_commands_refuse_at_the_door(words: list[str], fresh_home: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != LOGIN_VARIABLE}
    done = subprocess.run(shoestring(*words), cwd=ROOT, env=clean, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"export {LOGIN_VARIABLE}=name:password" in " ".join(done.stderr.split())


def shoestring(*words: str) -> list[str]:
    return [sys.executable, "-m", "flows", *words]


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


@pytest.fixture
def pages(fresh_home: Path) -> Iterator[list[str]]:
    """The addresses of pages that are open to everybody with the login."""
    said = fresh_home / "ui.out"
    with said.open("w") as file:
        process = subprocess.Popen(
            shoestring("ui", "--expose", EVERYBODY),
            cwd=ROOT,
            env=os.environ | {LOGIN_VARIABLE: LOGIN, "COLUMNS": "160"},
            stdout=file,
            stderr=file,
        )
    deadline = time.monotonic() + UP_SECONDS
    while "ctrl-c closes" not in said.read_text():
        assert process.poll() is None and time.monotonic() < deadline, said.read_text()
        time.sleep(0.2)
    yield re.findall(r"http://[\d.]+:\d+", said.read_text())
    subprocess.run(shoestring("ui", "--stop"), cwd=ROOT, check=True, capture_output=True)
    process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(UP_SECONDS + 60)
def test_every_page_asks_and_the_login_opens_it(pages: list[str], fresh_home: Path) -> None:
    """The worker inside speaks to the server, too, or the pages would not have come up."""
    prefect, mlflow = pages[:2]
    for address, body in (
        (f"{prefect}/api/flow_runs/filter", b"{}"),
        (f"{mlflow}/", None),
        (f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=5", None),
    ):
        assert status(address, body, None) == 401
        assert status(address, body, "jane:another-password") == 401
        assert status(address, body, LOGIN) == 200
    said = "".join(path.read_text(errors="replace") for path in (fresh_home / "logs").iterdir())
    assert "a-long-password" not in said + (fresh_home / "ui.out").read_text()
    assert json.loads((fresh_home / "server.json").read_text())["host"] == EVERYBODY


def status(address: str, body: bytes | None, login: str | None) -> int:
    headers = {"Content-Type": "application/json"} | ({"Authorization": basic(login)} if login else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
