"""The home's Prefect server: one for all, gone with the last, and never somebody else's."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tasks import new_database, server
from tasks.artifacts import InputError
from tasks.processes import ROOT, Process, bound_socket
from tasks.server import prefect_server, start_prefect_server

A_USER = """
import sys
from pathlib import Path
from tasks.home import use_home
use_home(Path(sys.argv[1]))
from tasks.server import prefect_server
with prefect_server() as url:
    print(url, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def own_home(fresh_home: Path, prefect_database: Path) -> Iterator[Path]:
    """A home with a database, which saves the 4 s of making one, and no server."""
    for path in prefect_database.iterdir():
        shutil.copy(path, fresh_home / "prefect")
    yield fresh_home
    if (running := server._running()) and running.process:
        running.process.stop()


def start_user(home: Path) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", A_USER, str(home)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(
            signal.signal, signal.SIGINT, signal.default_int_handler
        ),  # whoever runs the tests
    )


def read_url(user: subprocess.Popen[str]) -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


def end(user: subprocess.Popen[str]) -> None:
    assert user.communicate("\n", timeout=30) and user.returncode == 0


def answer() -> int:
    return 42


def server_process(home: Path) -> Process:
    state = json.loads((home / "server.json").read_text())
    return Process(state["pid"], state["created"])


def test_two_runs_that_start_at_once_share_one_server_and_the_last_stops_it(own_home: Path) -> None:
    first, second = start_user(own_home), start_user(own_home)
    with ThreadPoolExecutor() as pool:
        urls = set(pool.map(read_url, (first, second)))
    assert len(urls) == 1
    process, url = server_process(own_home), urls.pop()
    end(first)
    assert server.answers(url, 5)
    end(second)
    assert not process.alive()
    assert not (own_home / "server.json").exists()


def test_the_next_run_reuses_the_server_of_a_killed_one_and_then_stops_it(own_home: Path) -> None:
    killed = start_user(own_home)
    url = read_url(killed)
    process = server_process(own_home)
    killed.kill()
    killed.wait()
    assert process.alive()
    with prefect_server() as found:
        assert found == url
    assert not process.alive()


def test_a_server_whose_users_were_killed_ends_by_itself(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(server.ALONE_VARIABLE, "1")
    user = start_user(own_home)
    read_url(user)
    process = server_process(own_home)
    user.kill()
    user.wait()
    deadline = time.monotonic() + 15
    while process.alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not process.alive()
    assert not (own_home / "server.json").exists()


def test_flows_run_where_prefect_was_imported_before_the_server_started(own_home: Path) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    assert not PREFECT_API_URL.value()
    with prefect_server() as url:
        assert PREFECT_API_URL.value() == url == os.environ["PREFECT_API_URL"]
        state = flow(answer)(return_state=True)
        assert state.result() == 42
        with get_client(sync_client=True) as client:
            run = state.state_details.flow_run_id
            assert run is not None
            assert client.read_flow_run(run).state_name == "Completed"
    assert not PREFECT_API_URL.value()
    assert "PREFECT_API_URL" not in os.environ


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(own_home: Path) -> None:
    user = start_user(own_home)
    read_url(user)
    assert os.getsid(server_process(own_home).pid) != os.getsid(user.pid)
    user.send_signal(signal.SIGINT)
    user.wait(30)
    assert not (own_home / "server.json").exists()  # it was told to, by the one who left


def test_a_running_server_is_not_started_again_nor_shared_with_a_copy_of_its_home(
    own_home: Path, tmp_path: Path
) -> None:
    user = start_user(own_home)
    url = read_url(user)
    with pytest.raises(InputError, match=f"already runs at {url.removesuffix('/api')}"):
        start_prefect_server(port=1)
    shutil.copy(own_home / "server.json", tmp_path)
    os.environ["SHOESTRING_HOME"] = str(tmp_path)
    assert server._running() is None
    os.environ["SHOESTRING_HOME"] = str(own_home)
    assert server._running() is not None
    end(user)


def test_the_servers_page_knows_the_address_of_its_api(prefect_server: str) -> None:
    page = prefect_server.removesuffix("/api")
    with urllib.request.urlopen(f"{page}/ui-settings") as answer:
        assert urljoin(page, json.load(answer)["api_url"]) == prefect_server  # by whatever name it is called


def test_a_server_that_is_killed_is_started_again_where_it_was_and_stopped_by_its_last_user(
    own_home: Path,
) -> None:
    with start_prefect_server() as used:
        url, first = used.wait(), used.process
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        deadline = time.monotonic() + server.START_SECONDS
        while used.process == first or not server.answers(url, 1):
            assert used.problem is None and time.monotonic() < deadline
            time.sleep(0.1)
        later = Process(
            **{n: json.loads((own_home / "server.json").read_text())[n] for n in ("pid", "created")}
        )
        assert later.alive() and used.wait() == url
    assert not later.alive() and not (own_home / "server.json").exists()


def test_a_wanted_port_in_use_is_named_with_its_holder(fresh_home: Path) -> None:
    with bound_socket(None, "--any") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} is in use by .*{os.getpid()}.*--prefect-port"):
            start_prefect_server(port)
    assert not (fresh_home / "server.json").exists()


def test_a_new_home_begins_with_the_database_of_the_installation_and_a_used_one_keeps_its_own(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_database.make_template()  # unless `make` has
    monkeypatch.setenv("PREFECT_HOME", str(fresh_home / "prefect"))
    database = fresh_home / "prefect" / "prefect.db"
    new_database.give_database()
    with sqlite3.connect(database) as connection:
        assert connection.execute("select count(*) from flow_run").fetchone() == (0,)
        connection.execute("create table mine (here int)")
    new_database.give_database()
    with sqlite3.connect(database) as connection:
        assert connection.execute("select count(*) from mine").fetchone() == (0,)
    assert not database.with_suffix(".new").exists()


def test_a_preferred_port_in_use_gives_another() -> None:
    with bound_socket(None, "--any") as taken:
        port = taken.getsockname()[1]
        with bound_socket(None, "--any", preferred=port) as other:
            assert other.getsockname()[1] not in (0, port)


def test_a_given_server_is_used_and_left_alone(
    prefect_server: str, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    with start_prefect_server() as given:
        assert given.wait() == prefect_server
    assert server.answers(prefect_server, 5)
    assert not (fresh_home / "server.json").exists()


def test_a_given_server_that_does_not_answer_is_named(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", address)
        with pytest.raises(InputError, match=address):
            start_prefect_server().wait()


def test_a_server_that_cannot_start_says_why(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/at.db")
    with pytest.raises(InputError, match=r"unable to open database file[\s\S]*prefect-server\.log"):
        start_prefect_server().wait()
    assert not (fresh_home / "server.json").exists()
    assert "PREFECT_API_URL" not in os.environ
