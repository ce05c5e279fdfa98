"""Frees space in the home: stored data that no recent run names, and checkpoints nobody resumes from.

Never touched: final models, journals, MLflow's and Prefect's databases, and whatever is in use.
"""

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks import home

IN_USE_SECONDS = 600.0  # a running flow writes its clock every second; a suspended laptop is forgiven
DAY_SECONDS = 86_400.0
KEY = re.compile(r"[0-9a-f]{16}")  # as `tasks.store.content_key` makes them


@dataclass(frozen=True)
class Removable:
    """A folder that may go."""

    path: Path
    bytes: int
    reason: str


def plan_prune(keep_days: float = 14.0) -> list[Removable]:
    """What may go, biggest first; nothing is removed.

    Runs of the last `keep_days` keep the data they were trained on and, where unfinished, the
    checkpoints to go on from. While any run is in use, the store stays as it is.
    """
    runs = [path for path in (home.home() / "runs").glob("*") if path.is_dir()]
    found = [removable for run in runs if not in_use(run) for removable in _checkpoints(run, keep_days)]
    if not any(map(in_use, runs)):
        recent = [run for run in runs if _age_days(run) <= keep_days]
        named = {key for run in recent for key in _keys_named(run)}
        found += [
            Removable(entry, _size(entry), _store_reason(entry, keep_days))
            for entry in (home.home() / "store").glob("*/*")
            if entry.name not in named and not _is_fresh(entry)
        ]
    return sorted(found, key=lambda removable: removable.bytes, reverse=True)


def prune(removables: Sequence[Removable]) -> int:
    """Removes them and returns the bytes freed; what has come into use since it was planned stays."""
    freed = 0
    for removable in removables:
        busy = [run for run in (home.home() / "runs").glob("*") if in_use(run)]
        stored = (home.home() / "store") in removable.path.parents
        if (busy and stored) or any(run in removable.path.parents for run in busy):
            continue
        (removable.path / "complete").unlink(missing_ok=True)  # half an entry must not count as one
        shutil.rmtree(removable.path)
        freed += removable.bytes
    return freed


def render(removables: Sequence[Removable]) -> None:
    """Shows what may go, and why."""
    console = Console()
    if not removables:
        console.print("Nothing to remove.")
        return
    table = Table("what", "MB", "why", box=None)
    table.columns[1].justify = "right"
    for removable in removables:
        place = removable.path.relative_to(home.home())
        table.add_row(str(place), f"{removable.bytes / 1e6:,.1f}", removable.reason)
    table.add_section()
    table.add_row("together", f"{sum(removable.bytes for removable in removables) / 1e6:,.1f}", "")
    console.print(table)


def in_use(run: Path) -> bool:
    """Whether a flow may still be running in this run folder."""
    clock = run / "clock.json"
    return clock.exists() and time.time() - clock.stat().st_mtime < IN_USE_SECONDS


def _checkpoints(run: Path, keep_days: float) -> list[Removable]:
    if (run / "registered.json").exists():
        reason = "checkpoints of a finished run"
    elif _age_days(run) > keep_days:
        reason = f"checkpoints of a run that ended unfinished over {keep_days:g} days ago"
    else:
        return []
    folders = [
        path
        for path in run.rglob("checkpoints")
        if path.is_dir() and "model" not in path.relative_to(run).parts
    ]
    return [Removable(folder, size, reason) for folder in folders if (size := _size(folder))]


def _age_days(run: Path) -> float:
    """Days since the run last wrote its clock."""
    clock = run / "clock.json"
    return (time.time() - (clock if clock.exists() else run).stat().st_mtime) / DAY_SECONDS


def _keys_named(run: Path) -> set[str]:
    """Every content key in the records that the run's stages handed over."""
    return {key for path in run.glob("*.json") for key in KEY.findall(path.read_text(errors="replace"))}


def _store_reason(entry: Path, keep_days: float) -> str:
    if entry.name.startswith("."):
        return "left behind half written"
    return f"no run of the last {keep_days:g} days names it"


def _is_fresh(entry: Path) -> bool:
    """Whether the entry changed a moment ago: its run may not have written its first line yet."""
    return time.time() - entry.stat().st_mtime < IN_USE_SECONDS


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
