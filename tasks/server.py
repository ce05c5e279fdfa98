"""The home's Prefect server: found or started, shared by all who use the home, gone with the last one.

Its address and process lie in `server.json`, its users in `server.users/`, its log in
`logs/prefect-server.log`. Run as a module, this file is the server. One that dies is started again by
whoever uses it.
"""

import fcntl
import json
import os
import queue
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks import home
from tasks.alive import LOOK_SECONDS, Watch
from tasks.artifacts import InputError
from tasks.exposure import Exposure
from tasks.new_database import give_database
from tasks.processes import LOOPBACK, STOP_SECONDS, Process, bound_socket, last_words, log_file, spawn

API_VARIABLE = "PREFECT_API_URL"
START_SECONDS = 90.0  # 4 s on 2 idle cores, 15 s in a new home without a template
EVERYBODY = "0.0.0.0"  # every address of this machine
ALONE_VARIABLE = "SHOESTRING_SERVER_ALONE_SECONDS"
ALONE_SECONDS = "30"  # a server whose users were all killed stops by itself after this
POLL_SECONDS = 0.1
KEEP_SECONDS = 1.0  # between two looks whether the home's server is still there


class PrefectServer:
    """A Prefect server in use by this process from `start_prefect_server` to `leave`."""

    def __init__(self, url: str, process: Process | None, host: str = LOOPBACK) -> None:
        self.url = url  # of the API, from this machine
        self.process = process  # None: somebody else's, named by PREFECT_API_URL
        self.host = host  # that it listens to
        self.problem: Exception | None = None  # why it is gone and could not be started again
        self._left = threading.Event()

    @property
    def page(self) -> str:
        """The address to open in a browser."""
        return self.url.removesuffix("/api")

    def wait(self, seconds: float = START_SECONDS) -> str:
        """The API's address, as soon as it answers. Raises InputError where it does not."""
        if self.process is None:
            if not answers(self.url, 10):
                raise InputError(
                    f"no Prefect server answers at {API_VARIABLE}={self.url}: start it, or unset the variable"
                )
            return self.url
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.alive():
            if answers(self.url, 1):
                return self.url
            time.sleep(POLL_SECONDS)
        log = log_file("prefect-server")
        self.leave()
        raise InputError(f"the Prefect server did not start: {last_words(log)}\nIts log is {log}")

    def leave(self) -> None:
        """Hands over what is still unsent, and stops the server if nobody else uses it."""
        if self.process is None:
            return
        self._left.set()
        if self.process.alive():
            _send_what_is_left()
        with _lock():
            (_users() / str(os.getpid())).unlink(missing_ok=True)
            if not _living_users():
                self.process.stop()
                _state().unlink(missing_ok=True)
        if os.environ.get(API_VARIABLE) == self.url:
            del os.environ[API_VARIABLE]
            _refresh_settings()

    def keep_up(self, exposure: Exposure | None) -> None:
        """From now on, starts the home's server again, where it was, if it is gone while somebody uses it."""
        threading.Thread(target=self._keep_up, args=(exposure,), name="keep-server", daemon=True).start()

    def _keep_up(self, exposure: Exposure | None) -> None:
        port = int(self.page.rsplit(":", 1)[1])
        while not self._left.wait(KEEP_SECONDS):
            try:
                with _lock():
                    if not (self._left.is_set() or (self.process and self.process.alive())):
                        self.process = (_running() or _start(port, 0, exposure)).process
            except (InputError, OSError) as problem:  # no port, no disk, or no home any more
                self.problem = problem
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


@contextmanager
def prefect_server(port: int | None = None) -> Iterator[str]:
    """The address of an API that answers, for as long as the block lasts."""
    with start_prefect_server(port) as server:
        yield server.wait()


def start_prefect_server(
    port: int | None = None, preferred_port: int = 0, exposure: Exposure | None = None
) -> PrefectServer:
    """A server on its way up: import what is slow meanwhile, then `wait()`, and `leave()` at the end.

    It is the one of PREFECT_API_URL, or the home's. This process and its children use it from now
    on. Raises InputError where the wanted port is taken, or where the server that runs is not so exposed;
    a taken `preferred_port` gives another.
    """
    home.use_home()
    given = os.environ.get(API_VARIABLE)
    if given:
        return PrefectServer(given.rstrip("/"), None)
    with _lock():
        server = _running()
        if server is None:
            server = _start(port, preferred_port, exposure)
        elif port is not None and not server.page.endswith(f":{port}"):
            raise InputError(
                f"this home's Prefect server already runs at {server.page}: leave out --prefect-port {port}"
            )
        if exposure and server.host != exposure.host:
            raise InputError(
                "this home's Prefect server already runs, for this machine alone: stop who uses it"
                f" (processes {_users_named()})"
            )
        if server.host != LOOPBACK:
            os.environ |= (exposure or Exposure.to(server.host)).for_prefect()
        _users().mkdir(exist_ok=True)
        (_users() / str(os.getpid())).write_text(json.dumps(vars(Process.of(os.getpid()))))
    os.environ[API_VARIABLE] = server.url
    server.keep_up(exposure)
    _spare_loopback_the_proxy()
    _refresh_settings()
    return server


def _running() -> PrefectServer | None:
    """The home's server, if its process lives; a copied home does not own the original's server."""
    try:
        state = json.loads(_state().read_text())
        process = Process(state["pid"], state["created"])
        mine = state["home"] == str(home.home())
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return PrefectServer(state["url"], process, state["host"]) if mine and process.alive() else None


def _start(port: int | None, preferred_port: int, exposure: Exposure | None) -> PrefectServer:
    """Starts the server on a socket that listens already, so that nobody can take its port."""
    give_database()
    host = exposure.host if exposure else LOOPBACK
    with bound_socket(port, "--prefect-port", preferred_port, host) as listening:
        own = LOOPBACK if host in (LOOPBACK, EVERYBODY) else host
        page = f"http://{own}:{listening.getsockname()[1]}"
        settings = {
            "PREFECT_SERVER_API_HOST": host,
            "PREFECT_SERVER_API_PORT": page.rsplit(":", 1)[1],
            "PREFECT_UI_API_URL": "/api",  # of the address that the browser has the page from
            "MALLOC_ARENA_MAX": "2",
            **(exposure.for_prefect() if exposure else {}),
        }
        child = spawn(
            [sys.executable, "-m", "tasks.server", str(listening.fileno()), f"{page}/api"],
            "prefect-server",
            settings,
            files=(listening.fileno(),),
        )
    state = {"url": f"{page}/api", "host": host, "home": str(home.home()), **vars(child)}
    draft = _state().with_suffix(".new")
    draft.write_text(json.dumps(state))
    draft.replace(_state())
    return PrefectServer(state["url"], child, host)


def answers(url: str, timeout: float) -> bool:
    """Whether a server is there; one that wants a name and a password is."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code < 500  # a server that wants a key is there
    except (OSError, ValueError):
        return False


def _state() -> Path:
    return home.home() / "server.json"


def _users() -> Path:
    return home.home() / "server.users"


def _users_named() -> str:
    return ", ".join(str(user.pid) for user in _living_users()) or "none"


def _living_users() -> list[Process]:
    """Processes that use the home's server; entries of dead ones are removed."""
    living = []
    for path in _users().glob("*"):
        with suppress(FileNotFoundError, ValueError, TypeError):
            user = Process(**json.loads(path.read_text()))
            if user.alive():
                living.append(user)
            else:
                path.unlink()
    return living


@contextmanager
def _lock() -> Iterator[None]:
    with (home.home() / "server.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _spare_loopback_the_proxy() -> None:
    for name in ("NO_PROXY", "no_proxy"):
        spared = os.environ.get(name, "")
        if LOOPBACK not in spared:
            os.environ[name] = f"{spared},{LOOPBACK}".lstrip(",")


def _refresh_settings() -> None:
    """Prefect reads the environment when it is imported; where it was already, it reads again."""
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def _send_what_is_left() -> None:
    """Logs and events leave Prefect in batches; without this, the last batch finds no server."""
    if "prefect.logging.handlers" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=STOP_SECONDS, at_exit=False)
    EventsWorker.drain_all(timeout=STOP_SECONDS, at_exit=False)


def forget_unsent() -> None:
    """Drops the logs and events that wait for a server which is gone: Prefect would try each for seconds, at exit."""
    from prefect._internal.concurrency.services import _active_services

    for service in list(_active_services):
        with suppress(queue.Empty):
            while True:
                service._queue.get_nowait()


def _serve(descriptor: int, url: str) -> None:
    """Serves the home until told to stop, or until all its users have been dead for a while.

    Meanwhile, runs whose process is gone are marked.
    """
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(), log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)

    patience = float(os.environ.get(ALONE_VARIABLE, ALONE_SECONDS))

    def watch() -> None:
        seen = time.monotonic()
        while not server.should_exit:
            time.sleep(patience / 10)
            with _lock():
                if _living_users():
                    seen = time.monotonic()
                elif time.monotonic() - seen > patience:
                    _state().unlink(missing_ok=True)
                    server.should_exit = True

    def watch_runs() -> None:
        runs = Watch(url)
        while not server.should_exit:
            time.sleep(LOOK_SECONDS)
            runs.look_safely()

    threading.Thread(target=watch, name="watch", daemon=True).start()
    threading.Thread(target=watch_runs, name="watch-runs", daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
