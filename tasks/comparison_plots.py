"""The pictures of several trainings or runs beside each other, in the style of `plots.py`."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.effects import NOTHING_SEEN, Effect
from tasks.plots import BLUE, FAINT, GREEN, GREY, INK, ORANGE, STYLE, WIDTH_INCHES, label_end, save
from training.law import Forecast

if TYPE_CHECKING:  # they take seconds, which `shoestring compare` does not have
    from tasks.budgets import Measured
    from tasks.compare import Comparison

ROW_INCHES, EDGE_INCHES = 0.46, 1.3


def draw_effects(effects: Sequence[Effect], unit: str, out: Path) -> Path:
    """Each technique's worth with its interval, what pays most on top; nothing worth anything lies on the line."""
    there = [(one, one.worth) for one in effects if one.worth is not None][::-1]
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH_INCHES, EDGE_INCHES + ROW_INCHES * max(1, len(there))), layout="constrained"
        )
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=1)
        for row, (one, worth) in enumerate(there):
            colour = {"pays": BLUE, "costs": ORANGE}.get(one.verdict, GREY)
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [row, row], color=colour, lw=2.4, solid_capstyle="round")
            filled = "white" if one.verdict == NOTHING_SEEN else colour
            axes.plot([worth], [row], "D", color=colour, markerfacecolor=filled, ms=6.5)
        names = [f"{one.technique}{' (added)' * one.added}\n{one.was} → {one.instead}" for one, _ in there]
        axes.set_yticks(range(len(there)), names, size=9)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        axes.set_ylim(-0.7, max(0.7, len(there) - 0.3))
        axes.set(title="What each technique is worth", xlabel=f"{unit} saved (right of the line: it pays)")
        return save(figure, out)


def picture(path: Path) -> str:
    """A PNG as Markdown that holds it."""
    image = base64.b64encode(path.read_bytes()).decode()
    return f"![{path.stem}](data:image/png;base64,{image})"


def draw_frontier(runs: "Sequence[Measured]", forecast: dict[float, Forecast], unit: str, out: Path) -> Path:
    """Measured test scores against budgets, through what the first plan foresaw and each run's own plan."""
    scored = [(one.amount, one.bits, one.low, one.high) for one in runs if one.bits is not None]
    own = [(one.amount, *one.foreseen) for one in runs if one.foreseen]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
        axes = figure.subplots()
        if forecast:
            ahead = sorted(forecast)
            bits, low, high = zip(*(forecast[amount] for amount in ahead), strict=True)
            axes.fill_between(ahead, low, high, color=FAINT, alpha=0.45, lw=0)
            axes.plot(ahead, bits, color=GREY, lw=1.6, label="foreseen by the first plan, 90%")
        _with_bars(
            axes, own, "foreseen by each run's own plan, 90%", fmt="o", color=ORANGE, mfc="white", lw=1.4
        )
        _with_bars(axes, scored, "measured, 95% over documents", fmt="D", color=BLUE, lw=2.4)
        by_amount: dict[float, list[float]] = {}
        for one in runs:
            if one.bits is not None:
                by_amount.setdefault(one.amount, []).append(one.bits)
        axes.plot(list(by_amount), [sum(found) / len(found) for found in by_amount.values()], color=BLUE)
        axes.set_xscale("log")
        axes.set_xticks([one.amount for one in runs], [one.budget for one in runs])
        axes.set_xticks([], minor=True)
        axes.margins(x=0.08, y=0.1)
        axes.set(title=f"Test, {unit}, lower is better", xlabel="budget")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="upper right")
        return save(figure, out)


def draw_runs(found: "Comparison", out: Path) -> Path:
    """Test scores with their intervals, the best on top, and how each run came there."""
    colours = [BLUE, ORANGE, GREEN, INK, GREY]
    units = list(dict.fromkeys(run.unit for run in found.runs))
    with mpl.rc_context(STYLE):
        height = EDGE_INCHES + ROW_INCHES * max(5, len(found.runs))
        figure = Figure(figsize=(1.4 * WIDTH_INCHES, height), layout="constrained")
        left, right = figure.subplots(1, 2)
        for row, run in enumerate(found.runs):
            colour = colours[row % len(colours)]
            left.plot([run.low, run.high], [row, row], color=colour, lw=2.4, solid_capstyle="round")
            left.plot([run.bits], [row], "D", color=colour, ms=6.5)
            if curve := found.curves.get(run.letter):
                seconds, bits = zip(*curve, strict=True)
                right.plot(seconds, bits, color=colour, marker="o", ms=3.5, lw=1.6)
                label_end(right, seconds, bits, f"{run.letter} {{:.3f}}", colour)
        left.set_yticks(range(len(found.runs)), [f"{run.letter}  {run.name}" for run in found.runs], size=9)
        left.set_ylim(len(found.runs) - 0.3, -0.7)
        left.grid(axis="y", visible=False)
        left.tick_params(axis="y", length=0)
        left.spines["left"].set_visible(False)
        left.set(title="Test, 95% over documents", xlabel=", ".join(units))
        right.set(title=f"Validation, {', '.join(units)}", xlabel="seconds of training")
        right.margins(x=0.12, y=0.08)
        return save(figure, out)


def _with_bars(
    axes: Axes, points: Sequence[tuple[float, float, float | None, float | None]], label: str, **style: Any
) -> None:
    """Points (place, value, low, high) with their intervals, if there are any points."""
    if points:
        places, values, lows, highs = (np.array(column, float) for column in zip(*points, strict=True))
        bars = np.maximum(0, [values - lows, highs - values])
        axes.errorbar(places, values, bars, ms=6, label=label, **style)
