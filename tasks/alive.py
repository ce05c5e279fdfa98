"""Which flow runs a living process carries out, and what becomes of those whose process is gone.

Every flow run locks a file in its folder, which the kernel unlocks when the process dies, however it dies: no
process number that another took over, and no clock, can make a healthy run look dead. Whoever serves the home
(`tasks.server`, or `tasks.ui` where the Prefect server is somebody else's) looks at the locks of this machine's
runs; not all file systems that machines share know of each other's locks.
"""

import fcntl
import json
import logging
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tasks import home
from tasks.processes import Process

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger("shoestring")
FILE = "process.json"  # in the run's folder; locked as long as the process lives
LOOK_SECONDS = 3.0  # between two looks; a process must be gone at both
MOMENT_SECONDS = 2.0  # that a look may hold the lock at most
SETTLING_SECONDS = 60.0  # that a worker may take to say that a run is cancelled: the flow's hooks come first
UNDER_A_WORKER = "PREFECT__FLOW_RUN_ID"  # in the environment; a worker ends its own runs
KILLED = (
    "its process is gone, killed or gone down with its machine; Retry here goes on with it where a worker"
    " carries runs out, `shoestring run --resume` with a training that was started by hand"
)
REGISTERED_MEANWHILE = "its model was registered while this server was away"
PAUSING = (
    "A clock does not pause: the stage under way goes on to its end, then the process ends and the clock stops."
    " Resume, or Retry, goes on with what is left of the budget; Cancel ends it now"
)


@dataclass(frozen=True)
class Carrier(Process):
    """The process that carries out a run."""

    by_hand: bool  # not by a worker
    host: str = field(default_factory=platform.node)


_held: dict[str, TextIOWrapper] = {}


def hold(run_id: str, seconds: float = MOMENT_SECONDS) -> bool:
    """Has this process carry out a run, until it dies; False where another one does for longer than `seconds`."""
    path = home.run_folder(run_id) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    while run_id not in _held:
        file = path.open("a")
        try:
            mine = _locked(file)
        except OSError:  # a file system without locks: nobody can tell, so nobody shall
            file.close()
            path.unlink()
            return True
        if not mine:
            file.close()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        elif not _is_at(file, path):  # a look has just removed it
            file.close()
        else:
            file.truncate(0)
            carrier = Carrier(**vars(Process.of(os.getpid())), by_hand=UNDER_A_WORKER not in os.environ)
            file.write(json.dumps(vars(carrier)))
            file.flush()
            _held[run_id] = file  # open until the process ends
    return True


def announce(flow: object, flow_run: "FlowRun", state: "State[Any]") -> None:
    """Has this process carry out a flow run that begins; a hook of the flow.

    Where an earlier process still does, as after Resume was pressed before it had ended, waits for its end.
    """
    while not hold(str(flow_run.id)):
        log.info("an earlier process of this run is still at work: waiting for its end")
        time.sleep(LOOK_SECONDS)


def at_work(run_id: str) -> bool:
    """Whether a living process carries out this run."""
    with suppress(FileNotFoundError), (home.run_folder(run_id) / FILE).open("r+") as file:
        return run_id in _held or not _locked(file)
    return False


class Watch:
    """Looks again and again which runs have lost their process, and says so in Prefect."""

    def __init__(self, url: str) -> None:
        self._url = url  # of the API
        self._gone: set[Path] = set()  # at the last look
        self._told: set[Path] = set()  # to end
        self._open = ExitStack()
        self._client: SyncPrefectClient | None = None

    def look(self) -> None:
        """One look at all runs of the home. Raises what the API's client does where it does not answer."""
        there = {path for path in (home.home() / "runs").glob(f"*/{FILE}") if _of_this_machine(path)}
        living = {path for path in there if at_work(path.parent.name)}
        gone = there - living
        if not (living or gone & self._gone):
            self._gone = gone
            return
        client = self._client or self._connect()
        for path in gone & self._gone:
            self._bury(client, path)
        for path, run in _in_need(client, living):
            self._answer(client, path, run)
        self._gone = gone

    def _connect(self) -> "SyncPrefectClient":
        """A client that stays open: a new one at each look took 4 % of a core, this 0.2."""
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: self._url}):
            self._client = self._open.enter_context(get_client(sync_client=True))
        return self._client

    def look_safely(self) -> None:
        """One look; where the API does not answer, the next one will do."""
        try:
            self.look()
        except Exception as problem:  # of whatever kind the client, the network and the server raise
            log.warning("the runs of this home could not be looked at: %s", problem)
            self._client = None
            self._open.close()

    def _bury(self, client: "SyncPrefectClient", path: Path) -> None:
        """Marks a run whose process is gone, unless it had come to its end, or is in line again.

        Where its model is registered it has completed, and could not say so.
        """
        from prefect.exceptions import ObjectNotFound
        from prefect.states import Cancelled, Completed, Crashed

        with suppress(FileNotFoundError), path.open("r+") as file:
            if not _locked(file):  # somebody goes on with it
                return
            with suppress(ObjectNotFound, ValueError):  # of another server
                run = client.read_flow_run(UUID(path.parent.name))
                if run.state and run.state.is_running():
                    done = (path.parent / "registered.json").exists()
                    ended: State = (
                        Completed(message=REGISTERED_MEANWHILE) if done else Crashed(message=KILLED)
                    )
                    client.set_flow_run_state(run.id, ended)
                elif run.state and run.state.is_cancelling():
                    if _left_to_worker(path, run.state):
                        return
                    client.set_flow_run_state(run.id, Cancelled(message="its process has ended"))
            path.unlink()

    def _answer(self, client: "SyncPrefectClient", path: Path, run: "FlowRun") -> None:
        """Ends a run that is cancelled on the page, where no worker does; says what pausing means."""
        if run.state is None:
            return
        if run.state.is_paused() and run.state.message != PAUSING:
            said = run.state.model_copy(update={"message": PAUSING})
            client.set_flow_run_state(run.id, said, force=True)
        if not (run.state.is_cancelling() or run.state.is_cancelled()):
            return
        process = _carrier(path)
        if process is None or process.by_hand == run.state.is_cancelled() or not process.alive():
            return  # a worker ends its own runs; what was started by hand may do other things when this run is over
        if process.by_hand and path not in self._told:
            os.kill(process.pid, signal.SIGINT)
        elif path in self._told and not process.by_hand:  # suspended first, so the worker takes it for ended
            process.kill_with_children()
        self._told.add(path)


def _in_need(client: "SyncPrefectClient", paths: set[Path]) -> Iterator[tuple[Path, "FlowRun"]]:
    """Those of the runs that somebody has cancelled or paused."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType

    if not paths:
        return
    wanted = FlowRunFilter.model_validate(
        {
            "id": {"any_": [path.parent.name for path in paths]},
            "state": {"type": {"any_": [StateType.CANCELLING, StateType.CANCELLED, StateType.PAUSED]}},
        }
    )
    named = {path.parent.name: path for path in paths}
    for run in client.read_flow_runs(flow_run_filter=wanted):
        yield named[str(run.id)], run


def _carrier(path: Path) -> Carrier | None:
    """Who is written down; None while it is being written."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        return Carrier(**json.loads(path.read_text()))
    return None


def _left_to_worker(path: Path, state: "State[Any]") -> bool:
    """Whether a worker is about to say that it has cancelled a run, and would say so to one that is retried too."""
    carrier = _carrier(path)
    return (
        carrier is not None
        and not carrier.by_hand
        and time.time() - state.timestamp.timestamp() < SETTLING_SECONDS
    )


def _of_this_machine(path: Path) -> bool:
    carrier = _carrier(path)
    return carrier is not None and carrier.host == platform.node()


def _locked(file: TextIOWrapper) -> bool:
    """Whether the file is now locked by this process, until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: TextIOWrapper, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    return False
