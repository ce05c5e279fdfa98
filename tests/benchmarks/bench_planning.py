"""The plan held against what came of it: time, speed, score, size, search, pruning, larger budgets.

Options: `--part` one of the parts or several with commas between; `--text FILE`, a text that nothing was
tuned on, in the place of the standard library; `--seeds N`; `--budget B` of each run, where a part has one.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from scipy import stats

from tests.benchmarks.__main__ import Arguments
from tests.benchmarks.figures import Figure
from tests.benchmarks.planning_law import foreseen, measure_law, residuals, root_mean_square
from tests.benchmarks.planning_runs import Observed, Request, observe, recipes_of
from tests.benchmarks.planning_search import carried, measure_transfer, saved

RANDOM_RUNS, SHORTEST, LONGEST = 12, 60, 360  # runs, seconds
OTHER_RECIPES = ("python-code", "python-code", "masked-text", "classify")
RANDOM_SETTINGS = (
    (),
    ("validation.folds=0",),
    ("validation.folds=3",),
    ("search.share=0.2",),
    ("search.share=0.25", "search.sampler=random"),
    ("learning.optimizer.kind=adamw",),
    ("learning.average=0.1",),
    ("model.depth=2",),
    ("learning.dropout=0.1",),
)
DEPTHS = (1, 2, 3, 4, 6)
Options = argparse.Namespace


def main(arguments: Arguments) -> list[Figure]:
    """The figures of the parts asked for."""
    options = read_options(arguments)
    figures = []
    for part in options.part:
        say(f"-- {part}")
        with tempfile.TemporaryDirectory(prefix="shoestring-bench-", ignore_cleanup_errors=True) as folder:
            options.home = Path(folder) / "home"
            figures += [replace(figure, bench=f"planning/{part}") for figure in PARTS[part](options)]
    return figures


def clock(options: Options) -> list[Figure]:
    """Random recipes, settings and budgets, one after the other in one home: does each end on time, as foreseen?"""
    dice = random.Random(options.seed)
    count = 3 if options.quick else RANDOM_RUNS
    seen = []
    for number in range(count):
        recipe, settings = recipes_of(options.text)[0]
        if options.text is None:
            recipe = dice.choice(OTHER_RECIPES)
        extra = dice.choice(RANDOM_SETTINGS)
        seconds = dice.randint(SHORTEST, 90 if options.quick else LONGEST)
        seen.append(observe(Request(recipe, f"{seconds}s", number, (*settings, *extra)), options.home, say))
    return of_time(seen) + of_forecasts(seen)


def long(options: Options) -> list[Figure]:
    """One budget after the other: 5 minutes twice, then 20; the share of it in optimizer steps."""
    recipe, settings = recipes_of(options.text)[0]
    budgets = ("1m", "1m", "2m") if options.quick else ("5m", "5m", "20m")
    seen = [observe(Request(recipe, budget, 0, settings), options.home, say) for budget in budgets]
    limits = {"5m": (">= 80", ">= 90"), "20m": (">= 90", ">= 96")}
    figures = []
    for budget in dict.fromkeys(budgets):
        shares = [100 * one.steps_share for one in seen if one.request.budget == budget]
        must, aim = limits.get(budget, (None, None))
        figures.append(of(f"in optimizer steps, {budget}", shares, "% of budget", must, aim, worst=min))
    return figures + of_time(seen) + of_forecasts(seen)


def sizes(options: Options) -> list[Figure]:
    """The chosen depth against every depth at equal time."""
    recipe, settings = recipes_of(options.text)[0]
    budget, seeds = options.budget or ("1m" if options.quick else "3m"), options.seeds or 1
    free = [observe(Request(recipe, budget, seed, settings), options.home, say) for seed in range(seeds)]
    depths = sorted({*DEPTHS[: 2 if options.quick else None], *(one.depth for one in free)})
    scores: dict[int, float] = {}
    for depth in depths:
        fixed = (*settings, f"model.depth={depth}")
        seen = [observe(Request(recipe, budget, seed, fixed), options.home, say) for seed in range(seeds)]
        scores[depth] = median(one.result()["value"] for one in seen)
    best = min(scores.values())
    lost = [100 * (scores[one.depth] / best - 1) for one in free]
    say(f"depths: {', '.join(f'{depth}: {score:.4f}' for depth, score in scores.items())}")
    return [
        of(f"chosen size above the best of {len(depths)}, {budget}", lost, "% bits", "<= 2", "<= 1"),
        of(f"best depth, {budget}", [min(scores, key=lambda depth: scores[depth])], "layers"),
        of(f"chosen depth, {budget}", [one.depth for one in free], "layers"),
    ]


def search(options: Options) -> list[Figure]:
    """A run with a search against one without, at one budget: as planned, and with a fifth of the time."""
    recipe, settings = recipes_of(options.text)[0]
    budget, seeds = (
        options.budget or ("1m" if options.quick else "5m"),
        options.seeds or (2 if options.quick else 5),
    )
    share = "search.share=0.2"
    pairs = []
    for seed in range(seeds):
        sides = [(*settings, "search.share=0"), (*settings, share)]
        if seed % 2:
            sides.reverse()
        both = [observe(Request(recipe, budget, seed, side), options.home / str(seed), say) for side in sides]
        if seed % 2:
            both.reverse()
        pairs.append([one.result()["value"] for one in both])
    without, searched = np.array(pairs).T
    change = 100 * (searched / without - 1)
    p_value = float(stats.ttest_1samp(change, 0.0, alternative="greater").pvalue)
    return [
        of(f"defaults, {budget}", list(without), "bits/byte"),
        of(f"a fifth of the time for search, {budget}", list(searched), "bits/byte"),
        of(f"search against defaults, {budget}", list(change), "% bits", None, "< 0"),
        of(f"p that search is no worse, {budget}", [p_value], "", ">= 0.05"),
    ]


def ahead(options: Options) -> list[Figure]:
    """Forecasts of twice and four times the budget, held against runs of these."""
    recipe, settings = recipes_of(options.text)[0]
    base = int((options.budget or ("60s" if options.quick else "90s")).removesuffix("s"))
    figures, inside = [], []
    for seed in range(options.seeds or 1):
        place = options.home / str(seed)
        first = observe(Request(recipe, f"{base}s", seed, settings), place, say)
        second = observe(Request(recipe, f"{base}s", seed + 1, settings), place, say)  # knows the first
        for name, times in (("twice", 2), ("four times", 4)):
            longer = observe(Request(recipe, f"{times * base}s", seed, settings), place, say)
            for plan, known in ((first.plan, "blind"), (second.plan, "after one run")):
                middle, low, high = plan["forecasts"][name]
                value = longer.result()["value"]
                inside.append(low <= value <= high)
                off = 100 * (value / middle - 1)
                figures.append(of(f"{name} {base} s, {known}: off by", [off], "% bits"))
                figures.append(
                    of(f"{name} {base} s, {known}: width", [100 * (high - low) / middle], "% bits")
                )
    share = [100 * float(np.mean(inside))]
    return [of(f"inside the interval ({len(inside)} forecasts)", share, "%", ">= 80", ">= 100"), *figures]


def pruning(options: Options) -> list[Figure]:
    """Trial-seconds to the same best score, with pruning and without."""
    recipe, settings = recipes_of(options.text)[0]
    budget, ratios = options.budget or ("90s" if options.quick else "8m"), []
    for seed in range(options.seeds or (1 if options.quick else 2)):
        off, on = (
            observe(
                Request(
                    recipe,
                    budget,
                    seed,
                    (*settings, "search.share=0.75", "validation.folds=0", f"search.pruning={word}"),
                ),
                options.home / f"{seed}-{word}",
                say,
            )
            for word in ("false", "true")
        )
        ratio = saved(off, on)
        say(f"seed {seed}: {'out of reach' if ratio is None else f'{ratio:.2f}'}")
        ratios.append(float("inf") if ratio is None else ratio)
    return [of(f"trial-seconds with pruning, {budget}", ratios, "of those without", "<= 0.5", "<= 0.25")]


def transfer(options: Options) -> list[Figure]:
    """The best rate of a narrow model at one three times as wide: as it is, and by the rule."""
    optimizers = ("muon",) if options.quick else ("muon", "adamw")
    curves = measure_transfer(options.text, optimizers, 20_000 if options.quick else 300_000, say)
    figures = []
    for optimizer, by_depth in curves.items():
        power = RULE[optimizer]
        for name, one in (("as it is", 0.0), (f"by width^{power:g}", power)):
            lost = 100 * carried(by_depth, one)
            figures.append(of(f"{optimizer}: narrow rate {name}, loss at the wide model", [lost], "% bits"))
    return figures


def law(options: Options) -> list[Figure]:
    """The scaling law on one text: what it cannot describe, and what it foretells from two short trainings."""
    points = measure_law(options.text, options.quick, say)
    rows = foreseen(points)
    inside = 100 * float(np.mean([held for _, _, held in rows]))
    return [
        of("law told of all trainings, misses by", [100 * root_mean_square(residuals(points))], "% bits"),
        of("law told of two, off by", [100 * abs(off) for off, _, _ in rows], "% bits"),
        of("law told of two, width", [100 * width for _, width, _ in rows], "% bits"),
        of(f"law told of two, inside ({len(rows)} trainings)", [inside], "%", ">= 80"),
    ]


PARTS: dict[str, Callable[[Options], list[Figure]]] = {
    "clock": clock,
    "long": long,
    "sizes": sizes,
    "search": search,
    "ahead": ahead,
    "pruning": pruning,
    "transfer": transfer,
    "law": law,
}
RULE = {"muon": 0.0, "adamw": -1.0}  # the power of the width that a rate goes with; see training.config.Tune


def of_time(seen: list[Observed]) -> list[Figure]:
    """Time and the plan's own, the worst run of all."""
    worked = [one for one in seen if one.found]
    shares = [100 * one.elapsed_share for one in seen]
    return [
        of("on time", [100 * float(np.mean([one.on_time for one in seen]))], "% of runs", ">= 100"),
        of("elapsed", shares, "% of budget", None, "<= 101"),
        of("planning", [100 * one.planning_share for one in worked], "% of budget", "<= 5", "<= 2"),
    ]


def of_forecasts(seen: list[Observed]) -> list[Figure]:
    """Speed and score against the plan: medians over runs, from the least to the greatest."""
    worked = [one for one in seen if one.found]
    speeds = [100 * abs(one.speed_error) for one in worked]
    inside = 100 * float(np.mean([one.inside for one in worked]))
    widths = [100 * one.width for one in worked]
    first, later = (
        [width for width, one in zip(widths, worked, strict=True) if one.informed == informed]
        for informed in (False, True)
    )
    apart = (("first run on a text", first), ("text known from earlier runs", later))
    return [
        of("tokens/s off the plan", speeds, "%", "<= 10", "<= 5"),
        of(f"score inside its interval ({len(worked)} runs)", [inside], "% of runs", ">= 80"),
        of("width of the interval", widths, "% of score", "<= 8", "<= 4"),
        *(of(f"width, {name}", some, "% of score") for name, some in apart if some),
    ]


def of(
    name: str,
    values: list[float] | list[int],
    unit: str,
    must: str | None = None,
    aim: str | None = None,
    worst: Callable[[list[float]], float] = median,
) -> Figure:
    """A figure: the median (or the worst) of the values, from the least to the greatest."""
    all_of_them = [float(value) for value in values]
    return Figure("planning", name, worst(all_of_them), min(all_of_them), max(all_of_them), unit, must, aim)


def read_options(arguments: Arguments) -> Options:
    """The benchmark's own options, or what is usual; SystemExit where they are none."""
    parser = argparse.ArgumentParser(prog="make bench BENCH=planning", description=__doc__)
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of the random recipes")
    parser.add_argument("--budget")
    options = parser.parse_args(arguments.rest)
    options.part = options.part.split(",")
    unknown = [part for part in options.part if part not in PARTS]
    if unknown:
        parser.error(f"--part: there is no {', '.join(unknown)}, only {', '.join(PARTS)}")
    if options.text is not None and not options.text.is_file():
        parser.error(f"--text: there is no file {options.text}")
    options.quick = arguments.quick
    return options


def say(text: str) -> None:
    """Progress, apart from the figures."""
    print(text, file=sys.stderr, flush=True)
