"""What came of a run or a plan: printed for a person, or as JSON for a program."""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tasks import home
from tasks.heads import USES
from training.budget import parse_budget
from training.journal import read_journal


def summary(run_id: str) -> dict[str, Any]:
    """What came of a finished run, as one JSON object; intervals are the 95 % ones over documents.

    `metric` with `value` and `interval` is the number that decides, in bits per `unit`; `metrics`
    holds the others as value, low, high, and `baseline` what a classifier must beat.
    """
    folder = home.run_folder(run_id)
    plan, trained, report, registered = (
        json.loads(path.read_text()) if (path := folder / f"{kind}.json").exists() else {}
        for kind in ("plan", "trained", "report", "registered")
    )
    state = json.loads((folder / "clock.json").read_text())
    return {
        "flow_run_id": run_id,
        "mlflow_run_id": registered["mlflow_run_id"],
        "model_name": registered["model_name"],
        "model_version": registered["version"],
        "aliases": registered["aliases"],
        "objective": trained["objective"],
        "head": report["head"],
        "metric": "test/bits",
        "unit": report["unit"],
        "value": report["bits"],
        "interval": [report["low"], report["high"]],
        "metrics": report["metrics"],
        "baseline": report["baseline"],
        "verdict": registered["verdict"],
        "folds": {"mean": report["folds"]["mean"], "scores": report["folds"]["scores"]},
        "budget": state["budget"],
        "foreseen": plan["forecasts"]["this budget"] if plan else None,
        "elapsed_seconds": state["used_seconds"] + time.time() - (folder / "clock.json").stat().st_mtime
        if state["pid"] == os.getpid()
        else state["used_seconds"],
        "training_seconds": training_seconds(folder, int(plan.get("workers", 1))),
        "stage_seconds": json.loads(stages.read_text())
        if (stages := folder / "stages.json").exists()
        else {},
        "tokens_per_second": {
            "foreseen": plan.get("tokens_per_second"),
            "measured": trained["tokens_trained"] / max(1e-9, trained["training_seconds"]),
        },
        "tokens_trained": trained["tokens_trained"],
        "parameters": trained["parameters"],
        "run_folder": str(folder),
    }


def training_seconds(folder: Path, workers: int) -> float:
    """Core-seconds inside optimizer steps of trials, folds and final run, divided by the workers' cores."""

    def spent(journal: Path) -> float:
        steps = [event["training_seconds"] for event in read_journal(journal) if event["event"] == "step"]
        return float(max(steps, default=0.0))

    alone = [*folder.glob("trials/*/journal.jsonl"), *folder.glob("folds/*/journal.jsonl")]
    return sum(map(spent, alone)) / workers + spent(folder / "final" / "journal.jsonl")


def _myself() -> str:
    """How this user calls the command."""
    if shutil.which("shoestring"):
        return "shoestring"
    beside = Path(sys.executable).with_name("shoestring")
    return os.path.relpath(beside) if beside.exists() else "python -m flows"


def print_plan(run_id: str, as_json: bool) -> None:
    """Prints what a run would do, with the reasons."""
    from rich.console import Console
    from rich.table import Table

    from tasks.planned import Plan

    plan = Plan.model_validate_json((home.run_folder(run_id) / "plan.json").read_text())
    if as_json:
        print(plan.model_dump_json())
        return
    table = Table(
        "what",
        "value",
        "90 % interval",
        "reason",
        title=f"What a budget of {plan.clock.budget} would buy here",
    )
    for row in plan.rows():
        table.add_row(*row.values())
    Console().print(table)


def tell(found: dict[str, Any], as_json: bool) -> None:
    """Prints what came of a run: for a person, or as the last line for a program."""
    if as_json:
        print(json.dumps(found))
        return
    budget, used = parse_budget(found["budget"]), found["elapsed_seconds"]
    of = f"of {budget.value:.0f} " if budget.unit == "seconds" else ""
    share = found["training_seconds"] / (budget.value if of else used)
    foreseen, low, high = found["foreseen"] or (None, None, None)
    lines = [
        "",
        f"{found['model_name']} version {found['model_version']}: {found['verdict']}",
        *scores(found),
        f"  model     {found['parameters']:,} parameters, {found['tokens_trained']:,} tokens trained",
        *([f"  foreseen  {foreseen:.3f} (90 %: {low:.3f} to {high:.3f})"] if foreseen else []),
        f"  time      {used:.0f} {of}s; {share:.0%} in training steps",
        f"  evidence  {found['run_folder']}/report",
        "",
        *next_commands(found),
    ]
    print("\n".join(lines), file=sys.stdout)


def scores(found: dict[str, Any]) -> list[str]:
    """The test's figures as lines: a classifier's accuracy and F1 before its bits."""
    low, high = found["interval"]
    bits = f"{found['value']:.4f} {USES[found['head']].unit}"
    if found["head"] != "classification":
        return [f"  test      {bits} (95 % over documents: {low:.4f} to {high:.4f})"]
    lines = []
    for name, words in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        value, least, most = found["metrics"][name]
        lines.append(
            f"{words:<9} {value:.1%} (95 % over documents: {least:.1%} to {most:.1%}; "
            f"always saying {found['baseline']['label']!r}: {found['baseline'][name]:.1%})"
        )
    lines.append(f"{bits} ({low:.4f} to {high:.4f}; by the labels' shares: {found['baseline']['bits']:.4f})")
    return [f"  {'test' if number == 0 else '':<9} {line}" for number, line in enumerate(lines)]


def next_commands(found: dict[str, Any]) -> list[str]:
    """What a person would do next with such a model."""
    uses = {
        "causal": ("To see it write:", "generate 'def fibonacci('"),
        "masked": ("To see it fill a gap:", "predict 'for i in [MASK](10):'"),
        "classification": ("To have it label a text:", "predict 'def parse(text): ...'"),
    }
    why, command = uses[found["head"]]
    which = (
        "" if "champion" in found["aliases"] else f" --model {found['model_name']}/{found['model_version']}"
    )
    return [
        f"{why:<34} {_myself()} {command}{which}",
        f"{'To look at runs and compare them:':<34} {_myself()} ui",
    ]
