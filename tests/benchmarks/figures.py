"""Figures that benchmarks find: shown, kept in `results.jsonl`, and compared with what must hold."""

import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results.jsonl"
LIMIT = re.compile(r"(<=|>=|<|>) *(-?[\d.]+)")


@dataclass(frozen=True)
class Figure:
    """One measured number: `low` and `high` are its interval, `must` and `aim` limits such as "<= 4"."""

    bench: str
    figure: str
    value: float
    low: float | None
    high: float | None
    unit: str
    must: str | None = None
    aim: str | None = None

    @property
    def holds(self) -> bool | None:
        """Whether `must` is met; None where nothing must be. Raises ValueError for a limit not like "<= 4"."""
        if self.must is None:
            return None
        match = LIMIT.fullmatch(self.must)
        if match is None:
            raise ValueError(f"{self.figure}: {self.must!r} is no limit; write one like '<= 4'")
        limit = float(match[2])
        return {
            "<=": self.value <= limit,
            ">=": self.value >= limit,
            "<": self.value < limit,
            ">": self.value > limit,
        }[match[1]]

    def line(self) -> dict[str, Any]:
        """The figure as it is printed and kept."""
        return {**asdict(self), "holds": self.holds}


def machine() -> dict[str, Any]:
    """What the figures were measured on, without its name."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = re.findall(r"model name\s*: (.+)", information.read_text())
        cpu = models[0].strip() if models else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = round(psutil.virtual_memory().total / 2**30)
    return {"cores": cores, "cpu": cpu, "memory_gb": memory, "python": platform.python_version()}


def commit() -> str:
    """The commit that was measured, with a plus where files were changed since."""
    folder = RESULTS.parent
    said = [
        subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    return (said[0] or "unknown") + ("+" if said[1] else "")


def shown(words: Sequence[str]) -> str:
    """Command-line arguments for readers elsewhere: a path of this machine is FILE or FOLDER."""

    def without_path(word: str) -> str:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        if value and Path(value).exists():  # an empty word would be the folder that we are in
            value = "FOLDER" if Path(value).is_dir() else "FILE"
        return option + equals + value

    return shlex.join(map(without_path, words))


def report(figures: Sequence[Figure], quick: bool, words: Sequence[str], results: Path = RESULTS) -> bool:
    """Prints a table and, last, one JSON line a figure; keeps them. Whether all holds that must.

    `words` are the benchmark's own arguments, without which nobody could measure the same again.
    """
    table = Table("figure", "value", "interval", "unit", "must", "aim", "", box=None)
    for figure in figures:
        interval = f"{short(figure.low)} to {short(figure.high)}" if figure.low is not None else ""
        mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}[figure.holds]
        limits = (figure.must or "", figure.aim or "", mark)
        table.add_row(figure.figure, short(figure.value), interval, figure.unit, *limits)
    Console(highlight=False).print(table)
    circumstances = {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "arguments": shown(words),
        "machine": machine(),
    }
    with results.open("a", encoding="utf-8") as file:
        for figure in figures:
            print(json.dumps(figure.line()), flush=True)
            file.write(json.dumps({**figure.line(), **circumstances}) + "\n")
    return all(figure.holds is not False for figure in figures)


def short(value: float | None) -> str:
    """Four digits that count."""
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
