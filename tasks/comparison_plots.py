"""The pictures of several trainings or runs beside each other, in the style of `plots.py`."""

import base64
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tasks.effects import NOTHING_SEEN, Effect
from tasks.plots import BLUE, GREY, INK, ORANGE, STYLE, WIDTH_INCHES, save

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
