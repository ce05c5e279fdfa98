"""The only ray.init: local, or the cluster at RAY_ADDRESS. Light to import, so that Ray starts with the command."""

import logging
import os
import queue
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import ray

from tasks.artifacts import InputError
from tasks.spread import cores

ANSWER_SECONDS = 10.0  # that a cluster has to take a connection
# What Ray imports when it is told to start, when it starts workers, and where it finds them.
WHEN_STARTED, WHEN_TRAINING = (
    ("click", "aiohttp.web"),
    ("pydantic.v1", "pyarrow.json", "ray.data", "starlette.datastructures"),
)

_before: list[Callable[[], None]] = []


def import_ahead(modules: Iterable[str]) -> None:
    """Imports what Ray would import in a thread, unless it is not there.

    Two threads that import parts of one package at the same moment may each find half of it.
    """
    for name in modules:
        with suppress(ImportError):
            import_module(name)


def before_stop(end: Callable[[], None]) -> None:
    """Has `end` called before Ray ends: a thread that still waits for Ray then takes the process with it."""
    _before.append(end)


def on_cluster() -> bool:
    """Whether Ray is a cluster that others started, which outlives this process."""
    return bool(os.environ.get("RAY_ADDRESS"))


def start_ray() -> None:
    """Joins the cluster at RAY_ADDRESS, or starts a small local one, which wants Ray's token of whoever connects.

    Linux ends Ray's processes with the thread that started them, so a thread stays for that.
    """
    with _starting:
        _start_ray()


def _start_ray() -> None:
    if ray.is_initialized():
        return
    started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def stay() -> None:
        try:
            _init_ray()
        except BaseException as problem:  # raised by the caller, below
            started.put(problem)
            return
        started.put(None)
        _over.wait()

    _over.clear()
    threading.Thread(target=stay, name="ray", daemon=True).start()
    if (problem := started.get()) is not None:
        raise problem


def _init_ray() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if address := os.environ.get("RAY_ADDRESS"):
        _refuse_silence(address)
        ray.init(**quiet)
        return
    _sweep()
    ray.init(
        address="local",
        num_cpus=cores(),
        include_dashboard=False,
        object_store_memory=128 * 2**20,  # weights travel by file, not through the object store
        _temp_dir=str(_short_folder()),
        **quiet,
    )


def _refuse_silence(address: str) -> None:
    """Raises InputError where nobody listens at an address; Ray would try again for ever."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # such as auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError as problem:
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({problem.strerror or problem}): start it with"
            " `ray start --head`, or unset the variable"
        ) from None


def stop_ray() -> None:
    """Ends the local cluster, or leaves the remote one, and sweeps up."""
    for end in _before:
        end()
    with _starting:  # a Ray that is torn down while it starts takes the process with it
        if ray.is_initialized():
            ray.shutdown()
            _over.set()
    shutil.rmtree(_short_folder(), ignore_errors=True)


def _short_folder() -> Path:
    """Ray's sockets want paths under 107 bytes, so they cannot lie in the home."""
    return Path(tempfile.gettempdir()) / f"shoestring-ray-{os.getpid()}"


def _sweep() -> None:
    """Removes what killed runs of this user left behind."""
    for folder in Path(tempfile.gettempdir()).glob("shoestring-ray-*"):
        if not psutil.pid_exists(int(folder.name.rpartition("-")[2])):
            shutil.rmtree(folder, ignore_errors=True)


_starting = threading.Lock()
_over = threading.Event()  # Ray is no longer needed
