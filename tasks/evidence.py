"""What earlier runs in this MLflow have shown: scores, speeds and settings of comparable ones."""

import json
import logging
import platform
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks import tracking
from tasks.artifacts import Tokens
from tasks.calibrate import at_depth
from tasks.cluster import Compute
from tasks.space import transferred, value_of
from tasks.tracking import MetricName
from training.blueprint import Blueprint, Learning
from training.config import Section, tunable_fields, with_fields
from training.model import Model
from training.objectives import Objective

MOST_RUNS = 50  # the newest
PATIENCE_SECONDS = 3.0  # that the plan waits, after its own measurements
TEXT, MACHINE, OBJECTIVE = "data.splits", "machine", "objective.kind"
NORMAL_95 = 1.96  # standard deviations to either side that hold 95 %
SAMPLES_DIFFER = 0.5  # of a sample's standard error, where another is up to a third longer or shorter
UNKNOWN_SAMPLE = 0.05  # the same where no interval is known
DECISIVE = ("learning.optimizer.kind", "learning.schedule.kind", "learning.dropout", "learning.average")
SETTINGS = "search.settings."  # before the names of settings that a search found to be better
log = logging.getLogger("shoestring")


class Earlier(BaseModel):
    """One finished run of the same objective and architecture."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    same_text: bool  # and split
    same_machine: bool
    alike: bool = True  # in what decides how fast a text is learned; see DECISIVE
    depth: int
    tokens: int  # that the final run trained on
    batch_tokens: int
    bytes_per_token: float
    attention: str  # that it trained with
    bits: float  # of its test
    sample_error: float = (
        0.0  # relative, of scoring another sample of the test split; 0 where all of it was scored
    )
    speed: float | None = None  # measured tokens/s over predicted
    judging_seconds: float | None = None  # from the end of the final run to the registered model
    scored_again: bool = False  # whether a champion was scored, too
    gain: float | None = None  # that its search won over the defaults, relative
    settings: dict[str, float | str] = {}  # that its search took instead of the defaults


class Evidence(BaseModel):
    """Earlier runs, the newest first, and whether there is a champion to score again."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    runs: tuple[Earlier, ...] = ()
    champion: bool = True
    earlier_tests: bool = False  # whether that was tested on other text, which is here, too

    def attention_here(self) -> tuple[Any, str] | None:
        """The attention that the newest run on this machine trained with, and the reason to do so again."""
        run = next((run for run in self.runs if run.same_machine), None)
        return (run.attention, f"prior run {run.name} found it the fastest here") if run else None

    def of_this_text(self) -> list[Earlier]:
        """Those of the same documents, split alike."""
        return [run for run in self.runs if run.same_text]


NO_EVIDENCE = Evidence()


def machine() -> str:
    """What the machine calls its processor; times compare where it is the same."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()} x {max(1, len(models))}"


def look_up(
    tokens: Tokens, objective: Objective, model: Model, learning: Learning, compute: Compute, name: str
) -> "Future[Evidence]":
    """Asks MLflow in a thread of its own; where it does not answer, there is no evidence."""
    found: Future[Evidence] = Future()

    def ask() -> None:
        try:
            found.set_result(_earlier(tokens, objective, model, learning, compute, name))
        except Exception as problem:  # MLflow raises many kinds when away
            log.debug("no evidence of earlier runs: %s", problem)
            found.set_result(Evidence())

    threading.Thread(target=ask, name="evidence", daemon=True).start()
    return found


def waited_for(asked: "Future[Evidence]") -> Evidence:
    """The answer, or no evidence where it takes too long."""
    try:
        return asked.result(PATIENCE_SECONDS)
    except TimeoutError:
        return Evidence()


def _earlier(
    tokens: Tokens, objective: Objective, model: Model, learning: Learning, compute: Compute, name: str
) -> Evidence:
    settings, client = tracking.settings(), tracking.client()
    kind = ("model.family", model.family) if model.kind == "scratch" else ("model.name", model.name)
    query = (
        f"attributes.status = 'FINISHED' and params.`{OBJECTIVE}` = '{objective.kind}'"
        f" and params.`{kind[0]}` = '{kind[1]}' and metrics.`{MetricName.TEST_BITS}` > 0"
    )
    runs = client.search_runs(
        [tracking.experiment_id(client)],
        query,
        max_results=MOST_RUNS,
        order_by=["attributes.start_time DESC"],
    )
    here = f"{machine()}, {compute.count()} workers"
    wanted = {name: value_of(learning, name.removeprefix("learning.")) for name in DECISIVE}
    wanted = {name: value if isinstance(value, str) else json.dumps(value) for name, value in wanted.items()}
    if learning.dropout is None:  # each run has what suits its length
        del wanted["learning.dropout"]
    found = [_read(run, tokens, here, wanted) for run in runs]
    from tasks.champions import champion_of
    from tasks.earlier_tests import known_tests

    champion = champion_of(client, settings.registry_prefix + name, settings.aliases.champion)
    others = [test for test in known_tests(champion) if test.splits != tokens.splits.key and test.there]
    return Evidence(
        runs=tuple(run for run in found if run), champion=champion is not None, earlier_tests=bool(others)
    )


def _read(run: Any, tokens: Tokens, here: str, wanted: dict[str, str]) -> Earlier | None:
    """An MLflow run as evidence; None of one that an older version wrote."""
    params, metrics = run.data.params, run.data.metrics
    needed = (TEXT, MACHINE, "model.depth", "learning.batch_tokens", "data.bytes_per_token")
    if any(name not in params for name in needed) or MetricName.FINAL_TOKENS not in metrics:
        return None
    planned, measured = metrics.get(MetricName.PLAN_SPEED), metrics.get(MetricName.FINAL_SPEED)
    return Earlier(
        name=run.info.run_name or run.info.run_id,
        same_text=params[TEXT] == tokens.splits.key,
        same_machine=params[MACHINE] == here,
        alike=all(params.get(name) == value for name, value in wanted.items()),
        depth=int(params["model.depth"]),
        tokens=int(metrics[MetricName.FINAL_TOKENS]),
        batch_tokens=int(params["learning.batch_tokens"]),
        attention=params["learning.attention"],
        bytes_per_token=float(params["data.bytes_per_token"]),
        bits=metrics[MetricName.TEST_BITS],
        sample_error=_sample_error(metrics, tokens.splits.documents["test"]),
        speed=measured / planned if planned and measured else None,
        judging_seconds=metrics.get(MetricName.JUDGING_SECONDS),
        scored_again=MetricName.GATE_DIFFERENCE in metrics,
        gain=metrics.get(MetricName.SEARCH_GAIN),
        settings={
            key.removeprefix(SETTINGS): _number(value)
            for key, value in params.items()
            if key.startswith(SETTINGS)
        },
    )


def _sample_error(metrics: dict[str, float], documents: int) -> float:
    """From the interval over documents: samples begin with the same ones, and differ in how far they come."""
    low, high = (metrics.get(f"{MetricName.TEST_BITS}_{end}") for end in ("low", "high"))
    if metrics.get(MetricName.TEST_DOCUMENTS, 0) >= documents:
        return 0.0
    if low is None or high is None:
        return UNKNOWN_SAMPLE
    return SAMPLES_DIFFER * (high - low) / (2 * NORMAL_95) / metrics[MetricName.TEST_BITS]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def known_settings(runs: Sequence[Earlier], blueprint: Blueprint, most: int = 2) -> list[Earlier]:
    """Earlier runs whose search beat the defaults, the largest gain first, by settings that this blueprint has."""
    there = tunable_fields(blueprint)
    won = [run for run in runs if run.gain and run.settings and set(run.settings) <= set(there)]
    return sorted(won, key=lambda run: (not run.same_text, -(run.gain or 0.0)))[:most]


def with_known(
    blueprint: Blueprint, known: Sequence[Earlier], depth: int
) -> tuple[Blueprint, dict[str, str]]:
    """The blueprint with the best known settings of this text where it has defaults, and the reasons."""
    best = next((run for run in known if run.same_text), None)
    if best is None:
        return blueprint, {}
    plain = {
        field: value
        for field, value in transferred(best.settings, at_depth(blueprint, best.depth), depth).items()
        if is_default(blueprint, field)
    }
    reason = f"prior run {best.name}, whose search won {best.gain:.1%}"
    return with_fields(blueprint, plain), {field.rpartition(".")[2]: reason for field in plain}


def is_default(blueprint: Section, field: str) -> bool:
    """Whether a field has the value that its class gives it."""
    *path, last = field.split(".")
    section = value_of(blueprint, ".".join(path)) if path else blueprint
    return bool(getattr(section, last) == type(section).model_fields[last].default)
