"""What came of a comparison of techniques: the record, its table and plot, and what a person reads."""

import csv
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from prefect.artifacts import create_markdown_artifact

from tasks import outbox
from tasks.artifacts import Record
from tasks.comparison_plots import draw_effects, picture
from tasks.effects import CONFIDENCE, Effect
from tasks.home import run_folder
from tasks.run_page import in_a_run, show

RECIPE = "the recipe"
WORTH = "worth/"  # before a technique's name, as a metric of the run
COLUMNS = [
    "technique",
    "recipe",
    "instead",
    "worth",
    "low",
    "high",
    "relative",
    "verdict",
    "tokens/s",
    "bits",
]
PRINTED_WIDTH = 110  # where no terminal says how wide it is
FILES = ("what-pays.json", "what-pays.csv", "what-pays.png")  # in the run folder


class WhatPays(Record):
    """What every technique of a recipe is worth on this text, machine and budget."""

    kind: ClassVar[str] = "what-pays"
    stage: ClassVar[str] = "Take out each technique"
    run_id: str
    mlflow_run_id: str | None  # None: MLflow was away
    budget: str
    started: float  # Unix time
    unit: str  # of all scores, on the same sample of the validation split
    bits: float  # of the recipe; a mean over seeds
    scores: tuple[float | None, ...]  # the same, by seed
    tokens_per_second: float | None
    seeds: tuple[int, ...]  # that count
    seconds_each: float | None  # of a training on one worker; None where tokens are counted
    tokens_each: int | None
    depth: int
    watched_tokens: int
    effects: tuple[Effect, ...]  # what pays most first
    left_out: dict[str, str]  # technique -> why nothing can be told of it here

    @property
    def folder(self) -> Path:
        """The run folder, with `what-pays.csv` and `what-pays.png`."""
        return run_folder(self.run_id)

    def rows(self) -> list[dict[str, Any]]:
        """A line for each technique, what pays most first, then the recipe and what was left out."""
        found: list[dict[str, Any]] = [
            *(
                {
                    "technique": one.technique,
                    "recipe": one.was,
                    "instead": one.instead,
                    "worth": one.worth,
                    "low": one.low,
                    "high": one.high,
                    "relative": one.relative,
                    "verdict": one.verdict,
                    "tokens/s": one.tokens_per_second,
                    "bits": _mean(one.scores),
                }
                for one in self.effects
            ),
            {"technique": RECIPE, "tokens/s": self.tokens_per_second, "bits": self.bits},
            *({"technique": name, "verdict": f"left out: {why}"} for name, why in self.left_out.items()),
        ]
        return [{name: row.get(name) for name in COLUMNS} for row in found]

    def conditions(self) -> str:
        """Of what trainings it speaks, and what the intervals cover."""
        each = f"{self.seconds_each:.0f} s" if self.seconds_each else f"{self.tokens_each:,} tokens"
        return (
            f"Trainings of {each} on one worker each, depth {self.depth}, {len(self.seeds)} seeds. Worth: {self.unit}"
            f" that a technique saves; {CONFIDENCE:.0%} intervals over seeds (not documents), corrected for"
            f" {len(self.effects)} comparisons (Bonferroni). Longer trainings may differ."
        )

    def sentence(self) -> str:
        """What pays, what costs, and of how many nothing was seen."""
        groups: dict[str, list[str]] = {}
        for one in self.effects:
            groups.setdefault(one.verdict, []).append(one.technique)
        return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in groups.items())


def keep(found: WhatPays) -> None:
    """Table and plot in the run folder, in MLflow and on the run's page."""
    rows = found.rows()
    with (found.folder / FILES[1]).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    plot = draw_effects(found.effects, found.unit, found.folder / FILES[2])
    scores = {
        WORTH + re.sub(r"[^\w. -]", " ", one.technique): one.worth
        for one in found.effects
        if one.worth is not None
    }
    outbox.add(found.run_id, scores, FILES)
    if in_a_run():
        text = "\n\n".join([f"**{found.sentence()}**", found.conditions(), picture(plot)])
        show(create_markdown_artifact, text, key=f"what-pays-{found.key}", description=found.sentence())


def tell(run_id: str, as_json: bool) -> None:
    """Prints what every technique is worth: for a person, or as the last line for a program."""
    found = WhatPays.model_validate_json((run_folder(run_id) / FILES[0]).read_text())
    if as_json:
        told = {
            "flow_run_id": run_id,
            **found.model_dump(mode="json", exclude={"key", "run_id", "started"}),
            "confidence": CONFIDENCE,
            "correction": "Bonferroni",
            "elapsed_seconds": time.time() - found.started,
            "run_folder": str(found.folder),
        }
        print(json.dumps(told))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PRINTED_WIDTH)
    table = Table(title=f"What pays: {found.unit} saved", box=None)
    for name in (
        "technique",
        "recipe → instead",
        "worth",
        f"{CONFIDENCE:.0%} interval",
        "verdict",
        "tokens/s",
    ):
        right = name in ("worth", "tokens/s")
        table.add_column(name, justify="right" if right else "left", no_wrap=name == "worth")
    for one in found.effects:
        table.add_row(*_cells(one))
    table.add_section()
    table.add_row(RECIPE, "", f"{found.bits:.3f}", "", "", _count(found.tokens_per_second))
    console.print(table)
    for name, why in found.left_out.items():
        console.print(f"  {name} left out: {why}", soft_wrap=True)
    console.print(f"\n{found.conditions()}", soft_wrap=True)
    console.print(f"  plot    {found.folder / FILES[2]}", soft_wrap=True)
    console.print(f"  MLflow  {found.mlflow_run_id or 'was away; it hears of it later'}", soft_wrap=True)


def _cells(one: Effect) -> list[str]:
    worth = between = ""
    if one.worth is not None and one.relative is not None:
        worth = f"{one.worth:+.3f} ({one.relative:+.1%})"
    if one.low is not None and one.high is not None:
        between = f"{one.low:+.3f} to {one.high:+.3f}"
    name = one.technique + " (added)" * one.added
    return [name, f"{one.was} → {one.instead}", worth, between, one.verdict, _count(one.tokens_per_second)]


def _count(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"


def _mean(scores: Sequence[float | None]) -> float | None:
    there = [score for score in scores if score is not None]
    return sum(there) / len(there) if there else None
