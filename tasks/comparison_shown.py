"""Runs beside each other for a person at a terminal: tables, intervals as lines, and the curves."""

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tasks.compare import Comparison, Curve, Judged, Pair
from tasks.seed_noise import stored_noise

LINE_WIDTH, CURVE_WIDTH, CURVE_HEIGHT = 40, 64, 14  # characters


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """Prints all of it; what was not logged is left blank."""
    console = console or Console(highlight=False)
    console.print(table_of_runs(found.runs))
    console.print("\n".join(intervals(found.runs)), markup=False, soft_wrap=True)
    drawn = curves(found.curves)
    if drawn:
        unit = found.runs[0].unit
        console.print(f"\nValidation, {unit}, against seconds of training", markup=False)
        console.print("\n".join(drawn), markup=False)
    if not found.pairs:
        console.print("\nOne run: there is nothing to compare it with.")
        return
    console.print()
    console.print(table_of_pairs(found.pairs))
    noises = sorted({stored_noise(run.unit).relative for run in found.runs})
    console.print(
        "A difference is the first run's score less the second's, on the test documents of both. Its interval covers "
        f"documents and trainings, which differ by {' or '.join(f'{noise:.0%}' for noise in noises)} in their "
        "score for another seed alone. p is corrected for the number of pairs (Holm).",
        style="dim",
    )


def table_of_runs(runs: Sequence[Judged]) -> Table:
    """A line for each run."""
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title="Runs, the best first", title_justify="left"
    )
    table.add_column("")
    table.add_column("run", overflow="fold")
    for name in ("budget", "seed", "weights", "tokens", "training", "in all", "test"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            run.letter,
            run.name,
            run.budget or "",
            run.seed or "",
            short(run.parameters),
            short(run.tokens),
            "" if run.training_seconds is None else f"{run.training_seconds:,.0f} s",
            "" if run.seconds is None else f"{run.seconds:,.0f} s",
            f"{run.bits:.4f}",
        )
    return table


def short(count: float | None) -> str:
    """A count in three digits: 119 k, 1.37 M."""
    if count is None:
        return ""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"


def intervals(runs: Sequence[Judged]) -> list[str]:
    """Every run's score with its interval as a line, on one scale for all of a unit."""
    drawn = []
    for unit in dict.fromkeys(run.unit for run in runs):
        alike = [run for run in runs if run.unit == unit]
        low, high = min(run.low for run in alike), max(run.high for run in alike)
        drawn += ["", f"Test, {unit}, 95 % over documents"]
        drawn += [
            f"{run.letter}  {line(run, low, high)}  {run.bits:.4f} ({run.low:.4f} to {run.high:.4f})"
            for run in alike
        ]
    return drawn


def line(run: Judged, low: float, high: float) -> str:
    """An interval with its middle, where the scale goes from `low` to `high`."""

    def place(value: float) -> int:
        return round((LINE_WIDTH - 1) * (value - low) / max(high - low, 1e-12))

    first, middle, last = place(run.low), place(run.bits), place(run.high)
    marks = {first: "├", last: "┤", middle: "●"}
    drawn = (marks.get(at, "─" if first < at < last else " ") for at in range(LINE_WIDTH))
    return "".join(drawn)


def table_of_pairs(pairs: Sequence[Pair]) -> Table:
    """A line for each pair."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title="Pairs", title_justify="left")
    for name in ("pair", "difference", "95 % interval", "documents", "p (Holm)"):
        table.add_column(name, no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for pair in pairs:
        known = pair.difference is not None
        table.add_row(
            f"{pair.first} - {pair.second}",
            f"{pair.difference:+.4f}" if known else "",
            f"{pair.low:+.4f} to {pair.high:+.4f}" if known else "",
            f"{pair.documents:,}" if known else "",
            f"{pair.p_value_corrected:.4f}" if known else "",
            pair.verdict,
        )
    return table


def curves(found: dict[str, Curve]) -> list[str]:
    """Learning curves as lines of text, each of its run's letter; the axis of seconds is logarithmic."""
    points = [
        (letter, seconds, bits) for letter, curve in found.items() for seconds, bits in curve if seconds > 0
    ]
    if len(points) < 2:
        return []
    across, up = [math.log(seconds) for _, seconds, _ in points], [bits for _, _, bits in points]
    left, right, bottom, top = min(across), max(across), min(up), max(up)
    grid = [[" "] * CURVE_WIDTH for _ in range(CURVE_HEIGHT)]
    for (letter, _, bits), x in zip(points, across, strict=True):
        column = round((CURVE_WIDTH - 1) * (x - left) / max(right - left, 1e-12))
        row = round((CURVE_HEIGHT - 1) * (top - bits) / max(top - bottom, 1e-12))
        grid[row][column] = letter
    scale = [f"{top:8.3f} │", *["         │"] * (CURVE_HEIGHT - 2), f"{bottom:8.3f} │"]
    rows = [mark + "".join(row).rstrip() for mark, row in zip(scale, grid, strict=True)]
    ends = f"{math.exp(left):.3g}".ljust(CURVE_WIDTH - 6) + f"{math.exp(right):.4g} s"
    return [*rows, " " * 9 + "└" + "─" * CURVE_WIDTH, " " * 10 + ends]
