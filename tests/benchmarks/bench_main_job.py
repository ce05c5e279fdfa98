"""The main job, measured from outside: budget kept, time well spent, memory, and quality for the time.

Every budget gets a new home: a first run finds nothing cached, the next find the data prepared.
`transformers.Trainer` trains right after our run of the same seed, never beside it, for the whole
budget, on the run's own tokens; both are scored by one function on the same test documents.

Options: `--seeds N` trainings a side; `--budget` of the comparison; `--also` a list of further
budgets, empty for none; `--trainer-seconds` where the Trainer shall not get the whole budget.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks import home
from tasks.processes import ROOT
from tests.benchmarks.__main__ import Arguments
from tests.benchmarks.figures import Figure
from tests.benchmarks.watched import Watched, watch
from training.budget import parse_budget
from training.data import Ids, Shards, Slice
from training.metrics import Floats, score_documents
from training.units import bits

BENCH = "main_job"
SHOESTRING = Path(sys.executable).with_name("shoestring")
OURS_TO_SET = ("SHOESTRING_", "PREFECT_", "MLFLOW_", "RAY_")  # nothing of the machine's own reaches a run
ELAPSED_MUST, SHARE_MUST, REGISTERED_MUST = ("3m", "5m"), ("5m",), ("1m", "3m", "5m")
COMPARED_MUST = ("5m",)  # at other budgets, the same limits are aims


@dataclass(frozen=True)
class Run:
    """One `shoestring run`."""

    budget: str
    seed: int
    cold: bool  # in a new home, so that nothing was cached
    watched: Watched

    @property
    def result(self) -> dict[str, Any] | None:
        """What it printed last; None where it left no evaluated, registered model."""
        if self.watched.code:
            return None
        found: dict[str, Any] = json.loads(self.watched.output.splitlines()[-1])
        return found if found["model_version"] >= 1 and np.isfinite(found["value"]) else None

    @property
    def elapsed_share(self) -> float:
        """Seconds from the process' start to its exit, over the budget."""
        return self.watched.seconds / parse_budget(self.budget).seconds


@dataclass(frozen=True)
class Pair:
    """Two models' scores of the same test documents, after trainings with the same seed."""

    ids: tuple[str, ...]
    bytes: Ids
    ours_nats: Floats
    trainer_nats: Floats
    trainer_time_share: float  # of the time that it was given
    schedule_share: float  # how much of its planned steps the Trainer took; at 1 its rate reached zero
    size_ratio: float  # the Trainer's parameters over ours

    @property
    def difference(self) -> float:
        """Ours minus the Trainer's, in bits per byte."""
        return bits(float((self.ours_nats - self.trainer_nats).sum()), int(self.bytes.sum()))


def main(arguments: Arguments) -> list[Figure]:
    """All figures. Raises RuntimeError where a run to compare with the Trainer fails."""
    options = read_options(arguments)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS_TO_SET)}
    figures, pairs, runs = [], [], []
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-", ignore_cleanup_errors=True) as folder:
        home.use_home(Path(folder) / "bench")  # of this process, which imports what reads it
        place = Path(folder) / "home"
        for seed in range(max(2, options.seeds)):
            runs.append(launch(options.budget, seed, place, environment))
            if seed < options.seeds:
                pairs.append(pair(runs[-1], place, options.trainer_seconds))
        figures += time_and_memory(options.budget, runs) + quality(options.budget, pairs)
        for budget in options.also:
            place = Path(folder) / budget
            seeds = range(1 if arguments.quick else 2)
            figures += time_and_memory(budget, [launch(budget, seed, place, environment) for seed in seeds])
    return figures


def read_options(arguments: Arguments) -> argparse.Namespace:
    """The benchmark's own options, or what is usual; SystemExit where they are none."""
    quick = arguments.quick
    parser = argparse.ArgumentParser(prog=f"make bench BENCH={BENCH}")
    parser.add_argument("--seeds", type=int, default=1 if quick else 3)
    parser.add_argument("--budget", default="2m" if quick else "5m")
    parser.add_argument("--also", default="1m" if quick else "3m,1m")
    parser.add_argument("--trainer-seconds", type=float)
    options = parser.parse_args(arguments.rest)
    if options.seeds < 1:
        parser.error("--seeds: at least 1")
    options.also = [budget for budget in options.also.split(",") if budget]
    try:
        seconds = [parse_budget(budget).seconds for budget in (options.budget, *options.also)]
    except ValueError as problem:
        parser.error(str(problem))
    options.trainer_seconds = options.trainer_seconds or seconds[0]
    return options


def launch(budget: str, seed: int, place: Path, environment: Mapping[str, str]) -> Run:
    """Runs the default recipe in the home `place`, in a process of its own."""
    cold = not place.exists()
    words = ["run", "--budget", budget, "--seed", str(seed), "--json", "--home", str(place)]
    watched = watch([str(SHOESTRING), *words], environment, ROOT)
    run = Run(budget, seed, cold, watched)
    score = run.result["value"] if run.result else float("nan")
    said = f"{watched.seconds:.0f} s, {watched.peak_bytes / 1e9:.2f} GB, {score:.4f} bits per byte"
    say(f"{budget}, seed {seed}, {'nothing' if cold else 'data'} cached: {said}")
    say(watched.errors)
    return run


def pair(run: Run, place: Path, seconds: float) -> Pair:
    """Trains with the Trainer what `run` trained, for `seconds`, and scores what `run` scored."""
    from tests.benchmarks.trainer_baseline import closest_gpt2, train_gpt2

    if run.result is None:
        raise RuntimeError(f"the run to compare with exited with {run.watched.code}; see above")
    folder = Path(run.result["run_folder"])
    trained = json.loads((folder / "trained.json").read_text())
    shape = json.loads((folder / trained["model"] / "config.json").read_text())
    shards = Shards(place / "store" / "tokens" / trained["tokens"]["key"])
    context = shape["max_position_embeddings"]
    config = closest_gpt2(
        shape["vocab_size"], shape["hidden_size"], context, shards.start_token, run.result["parameters"]
    )
    baseline = train_gpt2(shards, config, seconds, run.seed)
    scored = pq.read_table(folder / "report" / "test_documents.parquet")
    ids = scored["id"].to_pylist()
    documents = documents_of(shards, ids)
    if [len(document) - 1 for document in documents] != scored["tokens"].to_pylist():
        raise ValueError("the report scored other tokens than the shards hold")
    parameters = baseline.model.num_parameters()
    pair = Pair(
        ids=tuple(ids),
        bytes=scored["bytes"].to_numpy(),
        ours_nats=scored["nats"].to_numpy(),
        trainer_nats=score_documents(baseline.model, documents, context),
        trainer_time_share=baseline.seconds / seconds,
        schedule_share=baseline.steps / baseline.planned_steps,
        size_ratio=parameters / run.result["parameters"],
    )
    say(
        f"transformers.Trainer, seed {run.seed}: {baseline.seconds:.0f} s, {parameters:,} parameters in "
        f"{config.n_layer} layers, {baseline.steps:,} steps of {baseline.planned_steps:,} planned; "
        f"ours is {pair.difference:+.4f} bits per byte from it"
    )
    return pair


def documents_of(shards: Shards, ids: Sequence[str]) -> list[Ids]:
    """The tokens of the test documents of these ids, in their order."""
    table = pq.read_table(shards.folder / "documents.parquet", columns=["id", "split"])
    names = table.filter(pc.equal(table["split"], "test"))["id"].to_pylist()
    documents = Slice(shards, "test").texts().documents
    by_name = dict(zip(names, documents, strict=True))
    return [by_name[name] for name in ids]


def time_and_memory(budget: str, runs: Sequence[Run]) -> list[Figure]:
    """The worst run of each kind; intervals run from the least to the greatest.

    Memory is the most that the command and all its descendants (Prefect's server, Ray, workers) held
    together: the sum of their proportional set sizes every two seconds, shared pages counted once.
    """

    def worst(name: str, values: list[float], unit: str, limit: str, must: bool) -> Figure:
        value = min(values) if limit.startswith(">") else max(values)
        return figure(f"{name}, {budget}", value, (min(values), max(values)), unit, limit, must)

    figures = []
    for cold, state in ((True, "nothing cached"), (False, "data cached")):
        shares = [run.elapsed_share for run in runs if run.cold == cold]
        if shares:
            must = budget in ELAPSED_MUST
            figures.append(worst(f"elapsed, {state}", shares, "of budget", "<= 1.05", must))
    results = [run.result for run in runs]
    finished = [result for result in results if result is not None]
    if finished:
        inside = [result["training_seconds"] / parse_budget(budget).seconds for result in finished]
        figures.append(worst("optimizer steps", inside, "of budget", ">= 0.65", budget in SHARE_MUST))
    done, must = [float(result is not None) for result in results], budget in REGISTERED_MUST
    every = figure(f"evaluated and registered, {budget}", fmean(done), _range(done), "of runs", ">= 1", must)
    figures.append(every)
    peaks = [run.watched.peak_bytes / 1e9 for run in runs]
    figures.append(worst("peak memory of all processes", peaks, "GB", "<= 4", True))
    return figures


def quality(budget: str, pairs: Sequence[Pair]) -> list[Figure]:
    """Test bits per byte of both, and paired differences; below zero, ours is better.

    With several seeds, a document's score is its mean over the trainings, and the interval is over
    documents: the 95 % bootstrap. The worst seed's figure runs from the least to the greatest seed.
    Raises ValueError where the trainings were not scored on the same documents.
    """
    from tasks.scores import interval  # imports prefect, which reads its home

    count = min(len(pair.ids) for pair in pairs)
    if len({pair.ids[:count] for pair in pairs}) > 1:
        raise ValueError("the seeds' reports score different test documents")
    sizes = pairs[0].bytes[:count]
    ours = np.mean([pair.ours_nats[:count] for pair in pairs], axis=0)
    trainer = np.mean([pair.trainer_nats[:count] for pair in pairs], axis=0)

    def over_documents(name: str, nats: Floats, limit: str | None = None) -> Figure:
        value = bits(float(nats.sum()), int(sizes.sum()))
        return figure(f"{name}, {budget}", value, interval(nats, sizes), "bits/byte", limit, must)

    must = budget in COMPARED_MUST
    gaps = [pair.difference for pair in pairs]
    times = [pair.trainer_time_share for pair in pairs]
    schedules = [pair.schedule_share for pair in pairs]
    ratios = [pair.size_ratio for pair in pairs]
    return [
        over_documents("Shoestring, test", ours),
        over_documents("transformers.Trainer, test", trainer),
        over_documents("difference, test", ours - trainer, "< 0"),
        figure(f"difference, worst seed, {budget}", max(gaps), _range(gaps), "bits/byte", "< 0", must),
        figure(f"Trainer's time, {budget}", min(times), _range(times), "of its time", ">= 0.95", must),
        figure(f"Trainer's schedule done, {budget}", min(schedules), _range(schedules), "of steps"),
        figure(f"Trainer's size, {budget}", ratios[0], _range(ratios), "of ours"),
    ]


def figure(
    name: str,
    value: float,
    interval: tuple[float, float],
    unit: str,
    limit: str | None = None,
    must: bool = False,
) -> Figure:
    """A figure whose limit must hold, or is an aim."""
    return Figure(BENCH, name, value, *interval, unit, *((limit, None) if must else (None, limit)))


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def say(text: str) -> None:
    """Progress, apart from the figures."""
    print(text, file=sys.stderr, flush=True)
