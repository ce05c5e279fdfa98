"""The pictures of a run, for a README or a page: few marks, labels at the marks, colours for every eye."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from tasks.artifacts import Folds
from training.classification import BINS, calibration_bins
from training.journal import Event, read_journal

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# Okabe and Ito's palette, which the colour-blind tell apart: https://jfly.uni-koeln.de/color
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, GREY, FAINT = "#222222", "#8a8a8a", "#cfcfcf"
STYLE = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "grid.color": "#ececec",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.2,
    "figure.facecolor": "white",
}
WIDTH_INCHES, DOTS_PER_INCH = 7.2, 144
SMOOTHING = 0.95  # of the loss, by eye
MOST_BARS = 10  # of reasons
MOST_LABELS = 16  # that a confusion matrix can show with numbers


def learning_curve(final: Path, others: Iterable[Path], out: Path, unit: str = "bits per byte") -> Path:
    """Loss and the validation's `unit` against training seconds, the final run over the shorter trainings before it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for path in others:
            events = list(read_journal(path))
            left.plot(*smooth_losses(events), color=FAINT, lw=0.9, zorder=1)
            right.plot(*validations(events), color=FAINT, lw=0.9, marker=".", ms=4, zorder=1)
        events = list(read_journal(final))
        seconds, losses = smooth_losses(events)
        left.plot(seconds, losses, color=BLUE, zorder=3)
        label_end(left, seconds, losses, "{:.2f}", BLUE)
        seconds, scores = validations(events)
        right.plot(seconds, scores, color=ORANGE, marker="o", ms=4.5, zorder=3)
        label_end(right, seconds, scores, "{:.3f}", ORANGE)
        left.set(title="Training loss, nats", xlabel="seconds of training")
        right.set(title=f"Validation, {unit}", xlabel="seconds of training")
        for axes in (left, right):
            axes.set_xscale("log")  # trials are short, the final run is long
            axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
            axes.margins(y=0.08)
        if any(line.get_color() == FAINT for line in left.lines):
            note(left, "grey: shorter trials")
        return save(figure, out)


def smooth_losses(events: Sequence[Event]) -> tuple[list[float], list[float]]:
    """Seconds and losses of the steps, by an exponential average without a bias to its start."""
    steps = [event for event in events if event["event"] == "step"]
    weights = accumulate((1.0 for _ in steps), lambda total, one: SMOOTHING * total + one)
    sums = accumulate((float(step["loss"]) for step in steps), lambda total, loss: SMOOTHING * total + loss)
    losses = [total / weight for total, weight in zip(sums, weights, strict=True)]
    return [float(step["seconds"]) for step in steps], losses


def validations(events: Sequence[Event]) -> tuple[list[float], list[float]]:
    """Seconds and bits of the validations."""
    seen = [event for event in events if event["event"] == "validation"]
    return [float(event["seconds"]) for event in seen], [float(event["bits"]) for event in seen]


def trials(found: Sequence[dict[str, Any]], out: Path, unit: str = "bits per byte") -> Path:
    """Every trial's `unit` on validation in the order of trials, and the best so far."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 3.4), layout="constrained")
        axes = figure.subplots()
        done = sorted(
            (t for t in found if t.get("value") is not None), key=lambda trial: int(trial["number"])
        )
        styles: dict[str, dict[str, Any]] = {
            "COMPLETE": {"color": BLUE, "s": 34, "label": "complete"},
            "PRUNED": {"facecolor": "white", "edgecolor": GREY, "s": 26, "label": "pruned early"},
        }
        for state, style in styles.items():
            group = [trial for trial in done if trial["state"].upper() == state]
            if group:
                axes.scatter([t["number"] for t in group], [t["value"] for t in group], zorder=3, **style)
        complete = [trial for trial in done if trial["state"].upper() == "COMPLETE"]
        if complete:
            best = list(accumulate((float(trial["value"]) for trial in complete), min))
            numbers = [int(trial["number"]) for trial in complete] + [int(done[-1]["number"])]
            axes.step(
                numbers, [*best, best[-1]], where="post", color=ORANGE, lw=1.6, zorder=2, label="best so far"
            )
            label_end(axes, numbers, [*best, best[-1]], "{:.3f}", ORANGE)
            axes.legend(frameon=False, ncols=3, loc="upper right", borderaxespad=0, handletextpad=0.4)
        axes.set(title=f"Trials, {unit} on validation", xlabel="trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.03, y=0.16)
        return save(figure, out)


def folds(found: Folds, test: tuple[float, float, float], out: Path, unit: str = "bits per byte") -> Path:
    """The folds' scores with mean and interval, and under them the test score with its own.

    Hollow, what a split that ignores near-duplicates would have said, beside the folds' own of the same documents.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 2.4), layout="constrained")
        axes = figure.subplots()
        if found.scores and found.mean is not None:
            axes.scatter(found.scores, [1] * len(found.scores), color=FAINT, edgecolor=GREY, s=40, zorder=3)
            spread(axes, 1, (found.mean, found.low, found.high), BLUE)
        if found.naive is not None and found.instead_of is not None:
            pair = [found.naive, found.instead_of]
            axes.plot(pair, [0.72, 0.72], color=GREY, lw=1, zorder=2)
            axes.scatter(pair, [0.72, 0.72], c=["white", GREY], edgecolor=GREY, marker="D", s=28, zorder=4)
            words = "near-duplicates ignored"
            place: dict[str, Any] = {"xytext": (0, -13), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{words}: {found.naive:.3f}", (sum(pair) / 2, 0.72), color=GREY, size=9, **place)
        spread(axes, 0, test, ORANGE)
        rows = f"{len(found.scores)} folds\n{found.seconds_each:.0f} s each, 90 % over folds"
        names = [
            "test\nfinal run, 95 % over documents",
            rows if found.scores else fill(f"no folds: {found.reason}", 34),
        ]
        axes.set_yticks([0, 1], names)
        axes.set_ylim(-0.6, 1.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.12)
        axes.set_title(f"{unit.capitalize()}, lower is better")
        return save(figure, out)


def confusion(counts: Ints, labels: Sequence[str], out: Path) -> Path:
    """How often each true label (row) was given each label (column), as shares of the row.

    Of many labels the MOST_LABELS commonest are shown, and the title says so.
    """
    common = np.sort(np.argsort(-counts.sum(1), kind="stable")[:MOST_LABELS])
    names = [label if len(label) <= 18 else f"{label[:17]}…" for label in (labels[n] for n in common)]
    totals = np.maximum(1, counts.sum(1))[common]
    shown = counts[np.ix_(common, common)]
    shares = shown / totals[:, None]
    side = min(WIDTH_INCHES, max(3.6, 0.42 * len(names) + 1.8))
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("blues", ["white", BLUE]), vmin=0, vmax=1)
        for row, column in np.argwhere(shown > 0):
            share = shares[row, column]
            colour = "white" if share > 0.6 else INK
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour, size=8)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(names)), [f"{name} ({n:,})" for name, n in zip(names, totals, strict=True)])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        left_out = f", the {len(names)} commonest of {len(labels)}" if len(names) < len(labels) else ""
        axes.set(title=f"Said, of each true label{left_out}", xlabel="said", ylabel="true (documents)")
        return save(figure, out)


def reliability(confidence: Floats, right: Flags, out: Path) -> Path:
    """How often a classifier is right against how sure it is, in the bins of its calibration error.

    Areas of the points are the bins' shares of the documents; a calibrated classifier lies on the line.
    """
    bins = calibration_bins(confidence.astype(np.float32))
    count = np.bincount(bins, minlength=BINS)
    there = count > 0
    sure = np.bincount(bins, confidence, BINS)[there] / count[there]
    correct = np.bincount(bins, right, BINS)[there] / count[there]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES / 2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, lw=1.2, zorder=1)
        axes.vlines(sure, sure, correct, color=ORANGE, lw=1.4, zorder=2)
        axes.scatter(sure, correct, s=12 + 500 * count[there] / count.sum(), color=BLUE, alpha=0.8, zorder=3)
        axes.set(
            title="Reliability", xlabel="confidence", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02)
        )
        return save(figure, out)


def corpus(sizes: Ints, dropped: Mapping[str, int], changed: Mapping[str, int], read: int, out: Path) -> Path:
    """How long the documents are that were kept, and what share of all was dropped and changed, and why."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
        if len(sizes):
            edges = np.geomspace(max(1, sizes.min()), sizes.max() + 1, min(30, 5 + len(sizes) // 10))
            left.hist(sizes, edges, color=BLUE)
            left.set_xscale("log")
            left.xaxis.set_major_formatter(lambda size, _: f"{size:,.0f}")
            left.xaxis.set_minor_formatter(NullFormatter())
        left.yaxis.set_major_locator(MaxNLocator(integer=True))
        left.set(title=f"{len(sizes):,} documents kept", xlabel="bytes")
        bars = [(reason, number, ORANGE) for reason, number in dropped.items()]
        bars += [(reason, number, GREEN) for reason, number in changed.items()]
        bars = sorted(bars, key=lambda bar: -bar[1])[:MOST_BARS][::-1]
        names = [fill(reason, 30) for reason, _, _ in bars]
        right.barh(names, [number / max(1, read) for _, number, _ in bars], color=[bar[2] for bar in bars])
        for place, (_, number, colour) in enumerate(bars):
            right.annotate(f" {number:,}", (number / max(1, read), place), va="center", color=colour, size=9)
        right.xaxis.set_major_formatter(PercentFormatter(1.0))
        right.grid(axis="y", visible=False)
        right.margins(x=0.15)
        right.set_title("Dropped and changed")
        right.set_xlabel("orange: of all documents dropped, green: changed")
        return save(figure, out)


def spread(axes: Axes, row: int, value: tuple[float, float | None, float | None], colour: str) -> None:
    """A mean with its interval, and its number above."""
    middle, low, high = value
    if low is not None and high is not None:
        axes.plot([low, high], [row, row], color=colour, lw=2.4, solid_capstyle="round", zorder=2)
    axes.plot([middle], [row], "D", color=colour, ms=7, zorder=4)
    axes.annotate(
        f"{middle:.3f}",
        (middle, row),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        color=colour,
        weight="bold",
    )


def label_end(axes: Axes, x: Sequence[float], y: Sequence[float], form: str, colour: str) -> None:
    """Writes a curve's last value beside its end."""
    if x:
        place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(form.format(y[-1]), (x[-1], y[-1]), color=colour, weight="bold", **place)


def note(axes: Axes, text: str) -> None:
    """A remark in the corner that learning curves leave empty."""
    axes.text(0.98, 0.95, text, transform=axes.transAxes, ha="right", va="top", color=GREY, size=9)


def save(figure: Figure, out: Path) -> Path:
    """Writes a PNG with the same bytes for the same picture."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DOTS_PER_INCH, metadata={"Software": None})
    return out
