"""One whole run on a tiny corpus: real Prefect, Ray, Optuna and MLflow, nothing left out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from flows.pipeline import train_best_model
from tasks import division, home, telemetry, tracking, trials
from tasks.artifacts import Registered
from tasks.clock import RECIPE
from tasks.generate import resolve_model
from tasks.library import PythonFunctions, PythonStdlib
from tasks.outbox import Thinning
from tasks.outcome import summary
from tasks.planned import Plan
from tasks.ray_session import stop_ray
from tasks.recipe import check_parameters, load_recipe
from tasks.sides import Validation
from tasks.source import Files, Source
from tasks.study import Search
from tasks.writing import Wish, complete
from training.journal import read_journal
from training.model import Scratch
from training.objectives import MaskedLanguageModel, Objective, SequenceClassification


class Seen:
    """Remembers the stages that were drawn."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}

    def begin(self, stage: str) -> None: ...

    def move(self, stage: str, share: float, detail: str) -> None:
        assert 0 <= share <= 1

    def end(self, stage: str, result: str, seconds: float) -> None:
        self.ended[stage] = result


@pytest.mark.timeout(240)
def test_a_budget_becomes_a_registered_model_with_evidence(
    corpus_files: Path, fresh_home: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(division, "LEAST_FOLD_SECONDS", 0.5)  # so that a short run has trials and folds, too
    monkeypatch.setattr(division, "LEAST_TRIAL_SECONDS", 2.0)
    monkeypatch.setattr(division, "FOLDS_SHARE", 0.3)
    monkeypatch.setattr(trials, "WATCHED_TOKENS", 512)
    monkeypatch.delenv(home.STARTED_VARIABLE, raising=False)
    seen = Seen()
    telemetry.draw_on(seen)
    try:
        state = train_best_model(
            budget="90s",
            source=Files(paths=(str(corpus_files),)),
            validation=Validation(test_share=0.1, validation_share=0.1, folds=2),
            search=Search(share=0.3),
            return_state=True,
        )
    finally:
        telemetry.draw_on(None)
        stop_ray()
    registered = state.result()
    assert isinstance(registered, Registered)
    run = str(state.state_details.flow_run_id)
    found = summary(run)

    assert found["aliases"] == ["challenger", "champion"]
    assert 0.5 < found["interval"][0] < found["value"] < found["interval"][1] < 8
    assert found["elapsed_seconds"] < 1.02 * 90 + 5
    assert len(found["folds"]["scores"]) == 2
    assert found["training_seconds"] > 5
    searched = json.loads((home.run_folder(run) / "search.json").read_text())
    assert searched["trials"][0]["state"] == "complete"
    assert set(seen.ended) >= {"Clean the corpus", "Plan the budget", "Search settings", "Register and gate"}

    client = tracking.client()
    parent = client.get_run(registered.mlflow_run_id)
    assert parent.data.tags[tracking.FLOW_RUN_TAG] == run
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == f"90s-python-code-{run[:8]}"
    assert (parent.data.params["budget"], parent.data.params["seed"]) == ("90s", "0")
    assert parent.data.tags[tracking.KIND_TAG] == "train-best-model"
    assert parent.data.metrics["budget/seconds"] == 90
    assert 0 <= parent.data.metrics["system/cpu_utilization_percentage"] <= 100
    recipe = load_recipe(str(home.run_folder(run) / RECIPE))
    assert check_parameters(train_best_model.fn, recipe)["search"] == Search(share=0.3)
    assert parent.data.metrics["test/bits"] == pytest.approx(found["value"])
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`{tracking.PARENT_TAG}` = '{registered.mlflow_run_id}'"
    )
    assert {child.info.run_name for child in children} >= {"trial-0", "fold-0", "fold-1"}
    thinning = Thinning()
    events = read_journal(home.run_folder(run) / "final" / "journal.jsonl")
    steps = [event["step"] for event in events if thinning.picks(event) and event["event"] == "step"]
    logged = [point.step for point in client.get_metric_history(registered.mlflow_run_id, "train/loss_nats")]
    assert sorted(logged) == steps

    folder = resolve_model("python-code@champion")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model(torch.tensor([tokenizer("def f(")["input_ids"]])).logits.isfinite().all()
    assert "".join(complete(folder, "def ", Wish(8, seed=0)))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("objective", "source", "family"),
    [
        (MaskedLanguageModel(), PythonStdlib(), AutoModelForMaskedLM),
        (SequenceClassification(), PythonFunctions(packages=4), AutoModelForSequenceClassification),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_same_flow_serves_the_other_objectives(
    objective: Objective,
    source: Source,
    family: Any,
    fresh_home: Path,
    prefect_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(division, "LEAST_FOLD_SECONDS", 1.0)
    monkeypatch.delenv(home.STARTED_VARIABLE, raising=False)
    try:
        state = train_best_model(
            budget="120s",
            source=source,
            objective=objective,
            model=Scratch(family="modernbert", depth=1),
            validation=Validation(folds=2),
            return_state=True,
        )
    finally:
        stop_ray()
    assert isinstance(state.result(), Registered)
    run = str(state.state_details.flow_run_id)
    found = summary(run)
    assert found["objective"] == objective.kind
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert len(found["folds"]["scores"]) == 2
    decided = Plan.model_validate_json((home.run_folder(run) / "plan.json").read_text())
    assert decided.blueprint.learning.attention != "auto"
    assert all(row["reason"] for row in decided.rows()[:-1])
    folder = home.run_folder(run) / "final" / "model"
    model, tokenizer = family.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model(**tokenizer("def f(self):", return_tensors="pt")).logits.isfinite().all()


def test_the_form_of_the_page_offers_every_section_with_tabs_for_choices() -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(train_best_model)
    properties = schema.properties
    assert list(properties)[:3] == ["budget", "seed", "source"]
    assert len(properties["source"]["anyOf"]) == 4
    assert "oneOf" not in json.dumps(schema.model_dump())
