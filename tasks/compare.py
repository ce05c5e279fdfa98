"""Finished runs beside each other: what each was given, what its test showed, and which differ beyond chance."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track

from tasks import home, tracking
from tasks.artifacts import InputError
from tasks.difference import Difference
from tasks.effects import NOTHING_SEEN
from tasks.paired import ALPHA, Scored, held_against, holm, why_not
from tasks.recorded import Run, file_of, find_runs, newest_judged
from tasks.seed_noise import stored_noise
from tasks.tracking import UNIT_TAG, MetricName

if TYPE_CHECKING:
    from mlflow import MlflowClient

LATEST = 5  # runs that are compared where none is named
MOST_RUNS = 26  # as there are letters
SCORES = "report/test_documents.parquet"  # in a run's artifacts
Curve = list[tuple[float, float]]  # training seconds, validation bits


class Judged(BaseModel):
    """One run: what it was given, and what its test showed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    letter: str  # that stands for it in tables and plots
    name: str
    mlflow_run_id: str
    flow_run_id: str
    budget: str | None = None
    seed: str | None = None
    parameters: int | None = None
    tokens: int | None = None  # that the final run trained on
    seconds: float | None = None  # from the start of the run to the registered model
    training_seconds: float | None = None  # of the final run, inside optimizer steps
    unit: str
    bits: float  # of the test
    low: float
    high: float  # 95 % over documents
    documents: int


class Pair(BaseModel):
    """Two runs: by how much the first is above the second, or why that cannot be said."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    first: str  # letters
    second: str
    documents: int | None = None  # that both were judged on
    difference: float | None = (
        None  # bits of the first less those of the second; negative: the first is better
    )
    low: float | None = None
    high: float | None = None  # 95 %, over documents and trainings, of this pair alone
    p_value: float | None = None
    p_value_corrected: float | None = None  # for the number of pairs, by Holm
    verdict: str


class Comparison(NamedTuple):
    """What is shown: runs, the best first; their pairs; and how each learned."""

    runs: list[Judged]
    pairs: list[Pair]
    curves: dict[str, Curve]  # by letter


def compare(references: Sequence[str]) -> Comparison:
    """The named runs, or the latest of this experiment, beside each other.

    Raises InputError where MLflow does not answer, a run is not there, or one has no test scores.
    """
    client = tracking.client_that_answers()
    runs = chosen(client, references)
    judged, scored, curves = list[Judged](), dict[str, Scored](), dict[str, Curve]()
    for run, letter in track(
        list(zip(sorted(runs, key=score_of), letters(), strict=False)),
        description="Reading the runs' scores",
        console=Console(stderr=True),
        transient=True,
    ):
        judged.append(read_run(run, letter))
        scored[letter] = read_scores(client, run)
        curves[letter] = read_curve(client, run)
    return Comparison(judged, pairs_of(judged, scored), curves)


def letters() -> Iterator[str]:
    """A, B, C, ..."""
    return map(chr, range(ord("A"), ord("A") + MOST_RUNS))


def chosen(client: "MlflowClient", references: Sequence[str]) -> list[Run]:
    """The runs that are meant, each once. Raises InputError where one was not judged, or there are too many."""
    if not references:
        if not (latest := newest_judged(client, LATEST)):
            raise InputError(
                f"experiment {tracking.settings().experiment!r} at {tracking.tracking_uri()} holds no run that was "
                "judged yet: `shoestring run` makes one"
            )
        return latest
    found = dict[str, Run]()
    for reference in references:
        matching = find_runs(client, reference)
        there = [run for run in matching if MetricName.TEST_BITS in run.data.metrics]
        if not there:
            state = matching[0].info.status.lower()
            raise InputError(
                f"run {matching[0].info.run_name} has no test scores (it is {state}): let it come to its end, or "
                "`shoestring finish` it"
            )
        found |= {run.info.run_id: run for run in there}
    if len(found) > MOST_RUNS:
        raise InputError(f"{len(found)} runs are too many to compare at once: name {MOST_RUNS} at most")
    return list(found.values())


def score_of(run: Run) -> tuple[str, float]:
    """Unit and bits, by which runs are put in order."""
    return run.data.tags.get(UNIT_TAG, ""), run.data.metrics[MetricName.TEST_BITS]


def read_run(run: Run, letter: str) -> Judged:
    """What MLflow's parameters and metrics say of a run; what an older version did not log is None."""
    metrics, params = run.data.metrics, run.data.params
    bits = metrics[MetricName.TEST_BITS]
    speed, tokens = metrics.get(MetricName.FINAL_SPEED), metrics.get(MetricName.FINAL_TOKENS)
    size = metrics.get(MetricName.MODEL_PARAMETERS)
    return Judged(
        letter=letter,
        name=run.info.run_name or run.info.run_id,
        mlflow_run_id=run.info.run_id,
        flow_run_id=run.data.tags[tracking.FLOW_RUN_TAG],
        budget=params.get("budget"),
        seed=params.get("seed"),
        parameters=None if size is None else int(size),
        tokens=None if tokens is None else int(tokens),
        seconds=metrics.get(MetricName.USED_SECONDS),
        training_seconds=tokens / speed if tokens and speed else None,
        unit=run.data.tags.get(UNIT_TAG, ""),
        bits=bits,
        low=metrics.get(f"{MetricName.TEST_BITS}_low", bits),
        high=metrics.get(f"{MetricName.TEST_BITS}_high", bits),
        documents=int(metrics.get(MetricName.TEST_DOCUMENTS, 0)),
    )


def read_scores(client: "MlflowClient", run: Run) -> Scored:
    """A run's scores, document by document. Raises InputError where they are gone."""
    with file_of(client, run, SCORES) as path:
        if path is None:
            raise InputError(
                f"run {run.info.run_name} has no {SCORES} in MLflow: without scores by document it cannot be compared"
            )
        table = pq.read_table(path, columns=["id", "nats", "weight"])
    nats, weight = (np.asarray(table[name].to_numpy()) for name in ("nats", "weight"))
    return Scored(table["id"].to_pylist(), nats.astype(np.float64), weight.astype(np.int64))


def read_curve(client: "MlflowClient", run: Run) -> Curve:
    """Validation bits against the seconds of training until then, of the final run."""
    seconds, looks = (
        sorted(
            {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}.items()
        )
        for name in (MetricName.TRAIN_SECONDS, MetricName.VALIDATION_BITS)
    )
    if not seconds or not looks:
        return []
    steps, times = (np.array(column, np.float64) for column in zip(*seconds, strict=True))
    at = np.interp(np.array([step for step, _ in looks], np.float64), steps, times)
    return [(float(second), bits) for second, (_, bits) in zip(at, looks, strict=True)]


def pairs_of(runs: Sequence[Judged], scored: dict[str, Scored]) -> list[Pair]:
    """A verdict on every pair, corrected for the number of those that could be compared."""
    pairs = list(itertools.combinations(runs, 2))
    found = dict[int, Difference]()
    reasons = dict[int, str]()
    for number, (one, other) in track(
        list(enumerate(pairs)), description="Comparing pairs", console=Console(stderr=True), transient=True
    ):
        first, second = scored[one.letter], scored[other.letter]
        if why := why_not(first, second, (one.unit, other.unit)):
            reasons[number] = why
        else:
            found[number] = held_against(first, second, stored_noise(one.unit))
    corrected = dict(zip(found, holm([one.chance_either() for one in found.values()]), strict=True))
    return [
        Pair(first=one.letter, second=other.letter, verdict=f"not comparable: {reasons[number]}")
        if number in reasons
        else told(one, other, found[number], corrected[number])
        for number, (one, other) in enumerate(pairs)
    ]


def told(one: Judged, other: Judged, apart: Difference, corrected: float) -> Pair:
    """A pair with its verdict."""
    better = one.letter if apart.bits < 0 else other.letter
    low, high = apart.interval()
    return Pair(
        first=one.letter,
        second=other.letter,
        documents=apart.documents,
        difference=apart.bits,
        low=low,
        high=high,
        p_value=apart.chance_either(),
        p_value_corrected=corrected,
        verdict=f"{better} is better" if corrected < ALPHA else NOTHING_SEEN,
    )


def show(references: Sequence[str], out: Path | None, as_json: bool) -> None:
    """Compares, draws, and prints what came of it for a person, or as the last line for a program."""
    found = compare(references)
    if not as_json:  # before the picture, which wants imports of its own
        from tasks.comparison_shown import print_comparison

        print_comparison(found)
    from tasks.comparison_plots import draw_runs

    names = "-".join(run.mlflow_run_id[:6] for run in found.runs[:LATEST])
    path = out or home.home() / "comparisons" / f"{names}.png"
    try:
        draw_runs(found, path)
    except (OSError, ValueError) as problem:  # no such folder, no right to write, no kind of picture
        raise InputError(f"{path} cannot be written ({problem}): name a .png file with --out") from None
    if as_json:
        runs, pairs = ([one.model_dump() for one in each] for each in (found.runs, found.pairs))
        print(json.dumps({"runs": runs, "pairs": pairs, "plot": str(path)}))
    else:
        print(f"  plot    {path}")
