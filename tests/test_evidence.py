"""Earlier runs, read back from a real MLflow: which are comparable, and how far."""

from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.artifacts import Tokens
from tasks.cluster import Compute
from tasks.evidence import MACHINE, TEXT, Evidence, look_up, machine
from tasks.tracking import MetricName
from tests import tiny_run
from training.blueprint import Blueprint, Learning
from training.model import Scratch
from training.objectives import CausalLanguageModel

PARAMS = {
    "objective.kind": "causal_language_model",
    "model.family": "lfm2",
    "model.depth": "2",
    "learning.batch_tokens": "4096",
    "learning.attention": "blockwise",
    "data.bytes_per_token": "3.0",
    "learning.optimizer.kind": "muon",
    "learning.schedule.kind": "warmup_stable_decay",
    "learning.dropout": "0.0",
    "learning.average": "null",
}
METRICS: dict[str, float] = {
    MetricName.TEST_BITS: 1.5,
    MetricName.FINAL_TOKENS: 4e6,
    MetricName.TEST_DOCUMENTS: 8.0,
}
pytestmark = pytest.mark.usefixtures("fresh_home")


def some_tokens() -> Tokens:
    parts = {"train": 900, "validation": 0, "test": 400}
    return Tokens(key="t", splits=tiny_run.splits(), vocabulary=298, tokens=parts, bytes_per_token=2.4)


def a_run(name: str, params: dict[str, Any], metrics: dict[str, float], status: str = "FINISHED") -> None:
    """One run as Shoestring leaves it in MLflow."""
    client = tracking.client()
    run = client.create_run(tracking.experiment_id(client), run_name=name)
    for key, text in params.items():
        client.log_param(run.info.run_id, key, text)
    for metric, value in metrics.items():
        client.log_metric(run.info.run_id, metric, value)
    client.set_terminated(run.info.run_id, status)


def found(learning: Learning) -> Evidence:
    asked = look_up(some_tokens(), CausalLanguageModel(), Scratch(), learning, Compute(workers=1), "words")
    return asked.result(timeout=60)


def test_earlier_runs_say_how_far_they_compare(fresh_home: Path) -> None:
    text = {TEXT: some_tokens().splits.key, MACHINE: f"{machine()}, 1 workers"}
    a_run("same", PARAMS | text, METRICS)
    few = {MetricName.TEST_DOCUMENTS: 3.0}
    a_run("sampled", PARAMS | text, METRICS | few)
    between = {f"{MetricName.TEST_BITS}_low": 1.3, f"{MetricName.TEST_BITS}_high": 1.8}
    a_run("sampled, and known how well", PARAMS | text, METRICS | few | between)
    a_run("dropped", PARAMS | text | {"learning.dropout": "0.1"}, METRICS)
    a_run("elsewhere", PARAMS | {TEXT: "another", MACHINE: "another"}, METRICS)
    a_run("failed", PARAMS | text, METRICS, "FAILED")
    a_run("of another family", PARAMS | text | {"model.family": "llama"}, METRICS)
    evidence = found(Learning(dropout=0.0))
    said = {
        run.name: (run.same_text, run.same_machine, run.alike, round(run.sample_error, 3))
        for run in evidence.runs
    }
    assert said == {
        "same": (True, True, True, 0.0),
        "sampled": (True, True, True, 0.05),
        "sampled, and known how well": (True, True, True, 0.043),
        "dropped": (True, True, False, 0.0),
        "elsewhere": (False, False, True, 0.0),
    }
    assert not evidence.champion
    assert {run.name for run in found(Learning(dropout=0.1)).runs if run.alike} == {"dropped"}
    assert all(run.alike for run in found(Learning()).runs)  # each had what was planned for its length
    assert evidence.attention_here() == ("blockwise", "prior run dropped found it the fastest here")


def test_what_runs_write_down_is_what_is_compared(fresh_home: Path) -> None:
    from tasks.register import flatten

    blueprint = Blueprint(model=Scratch(depth=2), learning=Learning(batch_tokens=4096), vocabulary=298)
    written = {key: str(value) for key, value in flatten(blueprint.model_dump(mode="json")).items()}
    text = {TEXT: some_tokens().splits.key, MACHINE: "m", "data.bytes_per_token": "3.0"}
    a_run("ours", written | text, METRICS)
    assert [run.alike for run in found(Learning()).runs] == [True]
