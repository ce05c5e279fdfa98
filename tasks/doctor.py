"""What this machine has, and whether what a run needs works here."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks import home
from tasks.processes import ROOT

STACK = ("torch", "transformers", "tokenizers", "datasets", "prefect", "fastapi", "ray", "optuna", "mlflow")
MINIMUM_PYTHON = (3, 11)
MINIMUM_MEMORY_GB = 4.0  # the most that a run of the default recipe may take
MINIMUM_DISK_GB = 2.0  # data, checkpoints and databases of a few runs
TRIAL_SECONDS = 120.0

A_FLOW_RUN = """
import sys
from pathlib import Path
from tasks.home import use_home
use_home(Path(sys.argv[1]))
from tasks.server import prefect_server
with prefect_server():
    from prefect import flow, task
    one = task(lambda: 1, name="one")
    assert flow(lambda: one() + one(), name="doctor")() == 2
"""
A_TRACKED_RUN = """
import sys
from pathlib import Path
from tasks.home import use_home
use_home(Path(sys.argv[1]))
from tasks import tracking
run = tracking.start_parent("doctor", "doctor")
tracking.client().log_metric(run, "one", 1.0)
assert tracking.client().get_run(run).data.metrics == {"one": 1.0}
"""
A_RAY_TASK = """
import sys
from pathlib import Path
from tasks.home import use_home
use_home(Path(sys.argv[1]))
from tasks.ray_session import start_ray, stop_ray
import ray
start_ray()
assert ray.get(ray.remote(lambda: 1).remote()) == 1
stop_ray()
"""


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found and, where it is not well, what to do."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Looks at everything and tries what a run needs, in half a minute; raises nothing."""
    looks: list[Callable[[], Check]] = [
        _python,
        _stack,
        _cores,
        _memory,
        _home,
        _disk,
        _matrices,
        _bf16,
        _gpus,
    ]
    return [*(look() for look in looks), *trials()]


def trials() -> list[Check]:
    """Really runs a flow, a tracked MLflow run and a Ray task, each in a process and a home of its own."""
    install = "run `make setup`: constraints.txt holds versions that fit"
    return [
        _try("a Prefect flow", A_FLOW_RUN, f"{install}; FastAPI 0.151 and later break Prefect 3.8"),
        _try("MLflow on SQLite", A_TRACKED_RUN, install),
        _try("Ray", A_RAY_TASK, f"{install}; Ray wants {tempfile.gettempdir()} writable, and /dev/shm"),
    ]


def render(checks: list[Check]) -> None:
    """Shows checks as a table, with what to do where one failed."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        remedy = f"\n[yellow]→ {escape(check.remedy)}[/]" if not check.ok and check.remedy else ""
        mark = "[green]✓[/]" if check.ok else "[red]✗[/]"
        table.add_row(mark, check.name, escape(check.found) + remedy)
    Console(highlight=False).print(table)


def _python() -> Check:
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check(
        "Python", sys.version_info >= MINIMUM_PYTHON, found, f"shoestring needs Python {wanted} or newer"
    )


def _stack() -> Check:
    found, missing = [], []
    for name in STACK:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    lines = ", ".join(found) + (f"; missing: {', '.join(missing)}" if missing else "")
    return Check("stack", not missing, lines, "run `make setup`")


def _cores() -> Check:
    from tasks.spread import cores

    load = psutil.getloadavg()[0]
    found = f"{cores()} of {psutil.cpu_count()}, {load:.1f} busy in the last minute"
    return Check("cores", True, found + (": a run gets less for its budget now" if load >= cores() else ""))


def _memory() -> Check:
    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    enough = memory.available / 1e9 >= MINIMUM_MEMORY_GB
    return Check("memory", enough, found, f"a run takes up to {MINIMUM_MEMORY_GB:g} GB: close something")


def _home() -> Check:
    try:
        return Check("home", True, str(home.use_home()))
    except OSError as error:
        found = f"{home.home()}: {error.strerror}"
        return Check(
            "home", False, found, f"name a folder that can be written with --home or {home.HOME_VARIABLE}"
        )


def _disk() -> Check:
    place = next(folder for folder in (home.home(), *home.home().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    remedy = f"keep {MINIMUM_DISK_GB:g} GB free: `shoestring prune` says what may go"
    return Check("disk", free >= MINIMUM_DISK_GB, f"{free:.1f} GB free at {place}", remedy)


def _matrices() -> Check:
    import torch

    from training.budget import matmul_peak_flops

    single, half = (matmul_peak_flops("cpu", precision) / 1e9 for precision in ("fp32", "bf16"))
    found = f"{single:,.0f} GFLOP/s in fp32, {half:,.0f} in bf16, on {torch.get_num_threads()} threads"
    return Check("matrix products", True, found)


def _bf16() -> Check:
    import torch

    support = {
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
    }
    names = [name for name, there in support.items() if there]
    return Check(
        "bf16 on the CPU", True, ", ".join(names) or "not in hardware: training in fp32 is faster here"
    )


def _gpus() -> Check:
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return Check("GPUs", True, ", ".join(names) or "none: the CPU trains")


def _try(name: str, program: str, remedy: str) -> Check:
    """Runs `program` in a process of its own and in an empty home, away from the user's servers."""
    ours = ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shoestring-doctor-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-c", program, str(Path(folder) / "home")]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TRIAL_SECONDS
            )
        except subprocess.TimeoutExpired:
            return Check(name, False, f"no result after {TRIAL_SECONDS:.0f} s", remedy)
    if done.returncode == 0:
        return Check(name, True, f"works, in {time.monotonic() - started:.0f} s")
    lines = done.stderr.strip().splitlines() or ["it said nothing"]
    return Check(name, False, lines[-1].strip(), remedy)
