"""Processes that outlive a function: remembered in files, in sessions of their own, each with a log."""

import errno
import os
import re
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from tasks import home
from tasks.artifacts import InputError

LOOPBACK = "127.0.0.1"
ROOT = Path(__file__).parents[1]  # where the code is
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
ERROR = re.compile(r"[\w.]*(Error|Exception): ")  # the line that ends a traceback


@dataclass(frozen=True)
class Process:
    """A process that a file remembers; its start time tells it from a later one of the same number."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """The living process of this number."""
        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Asks it to end, and ends it where it has not after `seconds`."""
        for ask in (psutil.Process.terminate, psutil.Process.kill):
            if not self.alive():
                return
            with suppress(psutil.NoSuchProcess):
                ask(psutil.Process(self.pid))
            deadline = time.monotonic() + seconds
            while self.alive() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def kill_with_children(self) -> None:
        """Ends it at once, and all below it, which else might take its time to notice."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def spawn(command: list[str], name: str, settings: dict[str, str], files: tuple[int, ...] = ()) -> Process:
    """A process in a session of its own, out of ctrl-c's reach; it writes to `logs/<name>.log`.

    The log of the one before it stays as `<name>.previous.log`.
    """
    path = log_file(name)
    if path.exists():
        path.replace(path.with_suffix(".previous.log"))
    inherited = {key: value for key, value in os.environ.items() if key != home.STARTED_VARIABLE}
    with path.open("wb") as log:
        child = subprocess.Popen(
            command,
            env=inherited | settings,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=files,
            start_new_session=True,
        )
    process = Process.of(child.pid)
    threading.Thread(target=child.wait, name=f"reaper of {name}", daemon=True).start()
    return process


def log_file(name: str) -> Path:
    """Where the process of this name writes."""
    folder = home.home() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


def last_words(path: Path) -> str:
    """The last error in a log or, without one, its last line."""
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    errors = [line for line in lines if ERROR.match(line)]
    return (errors or lines or ["it wrote nothing"])[-1].strip()


def bound_socket(port: int | None, flag: str, preferred: int = 0, host: str = LOOPBACK) -> socket.socket:
    """A listening socket, loopback unless told: on `port` or, without one, on `preferred` or any free one.

    Raises InputError naming the process that holds `port`, and `flag`, which gives another.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port if port is not None else preferred))
    except OSError as error:
        if port is not None:
            listening.close()
            if error.errno != errno.EADDRINUSE:
                raise InputError(
                    f"port {port} cannot be opened: {error.strerror}; name another with {flag}"
                ) from None
            raise InputError(f"port {port} is in use{_holder(port)}: name another with {flag}") from None
        listening.bind((host, 0))
    listening.listen(128)
    return listening


def _holder(port: int) -> str:
    """ " by NAME (process N)", where this user may know."""
    with suppress(psutil.Error, PermissionError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""
