"""What MLflow's pages need to compare runs: names, numbers that go on axes, and every point once."""

import random
import time
from pathlib import Path

import pytest

from tasks import home, outbox, tracking
from tasks.artifacts import Registered
from tasks.children import log_child
from tasks.clock import Clock
from tasks.outbox import Courier, Letter
from tasks.register import Promotion, register
from tasks.system_metrics import SYSTEM_JOURNAL, SYSTEM_PREFIX, SystemMetrics
from tasks.telemetry import Tail
from tasks.tracking import KIND_TAG, UNIT_TAG, MetricName
from tests import tiny_run
from tests.test_outbox import write_steps
from training.journal import Journal

pytestmark = pytest.mark.usefixtures("module_home")
STEPS = 60


def write_journal(path: Path, steps: int = STEPS, deaths: int = 0, pause: float = 0.0) -> None:
    """A training's journal, rewound to an earlier checkpoint at each of some deaths, and gone on with."""
    dice, step = random.Random(0), 0
    at = sorted(dice.sample(range(5, steps - 5), deaths))
    journal = Journal(path)
    while step < steps:
        step += 1
        where = {"step": step, "time": time.time(), "progress": step / steps, "tokens": 100 * step}
        seconds = {"seconds": step / 10, "training_seconds": step / 10}
        figures = {
            "loss": 5 / step,
            "rate": 1.0,
            "gradient_norm": 0.5,
            "tokens_per_second": 1e3,
            "memory_gb": 0.5,
        }
        journal.append({"event": "step", **where, **seconds, **figures})
        if step % (steps // 10) == 0:
            journal.append({"event": "validation", **where, **seconds, "bits": 4 / step})
        if at and step == at[0]:
            at.pop(0)
            journal.close()
            with path.open("a") as file:
                file.write('{"event": "step", "st')  # what a kill leaves
            journal = Journal(path)
            step = dice.randint(0, step)
            journal.rewind(step)
        time.sleep(pause)
    journal.close()


def points(run: str, name: str) -> dict[int, float]:
    """A metric's values by step. Every step must be there once."""
    history = tracking.client().get_metric_history(run, name)
    steps = [point.step for point in history]
    assert len(steps) == len(set(steps)), f"{name} has steps twice: {sorted(steps)}"
    return {point.step: point.value for point in history}


def test_every_step_is_one_point_however_often_workers_died(
    module_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "ROUND_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "POINT_SECONDS", 0.0)
    journal = home.run_folder("dying") / "final" / "journal.jsonl"
    outbox.post(
        Letter(run_id="dying", run_name="2m-words", journal="final/journal.jsonl", started=time.time())
    )
    assert Courier.of("dying").place(60) is not None  # it is at work while the training dies
    write_journal(journal, deaths=5, pause=0.01)
    outbox.finish("dying", "FINISHED")
    run = tracking.start_parent("dying", "2m-words", wake=False)
    assert sorted(points(run, "train/loss_nats")) == list(range(1, STEPS + 1))
    assert points(run, "train/tokens") == {step: 100.0 * step for step in range(1, STEPS + 1)}
    client = tracking.client()
    same = client.search_runs(["0", "1"], f"tags.`{tracking.FLOW_RUN_TAG}` = 'dying'")
    assert [one.info.run_name for one in same] == [
        "2m-words-dying"
    ]  # one parent, called as `--resume` knows it


def test_a_journal_that_was_rewound_twice_between_two_looks_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    tail, seen = Tail(path), list[int]()
    for first, last, back in ((1, 20, 10), (11, 15, 12), (13, 30, None)):
        journal = Journal(path)
        for step in range(first, last + 1):
            journal.append({"event": "step", "step": step, "time": float(step)})
        if first == 1:
            seen += [event["step"] for event in tail.new_events()]
        if back is not None:
            journal.rewind(back)
        journal.close()
    seen += [event["step"] for event in tail.new_events()]
    assert seen == list(range(1, 31))
    assert tail.new_events() == []


def test_curves_go_over_seconds_and_tokens(module_home: Path) -> None:
    """A point of validation can be drawn over another metric only where that one has the same step."""
    write_journal(home.run_folder("curves") / "final" / "journal.jsonl")
    letter = Letter(run_id="curves", run_name="n", journal="final/journal.jsonl", started=time.time())
    outbox.post(letter)
    outbox.finish("curves", "FINISHED")
    run = tracking.start_parent("curves", "n", wake=False)
    looks = points(run, "validation/bits")
    assert sorted(looks) == list(range(6, STEPS + 1, 6))
    seconds, tokens = points(run, "train/seconds"), points(run, "train/tokens")
    assert {step: seconds[step] for step in looks} == {step: step / 10 for step in looks}
    assert {step: tokens[step] for step in looks} == {step: 100.0 * step for step in looks}
    losses = points(run, "train/loss_nats")
    assert set(losses) < set(seconds)  # thinned out, and so shorter


@pytest.fixture(scope="module")
def registered(module_home: Path) -> Registered:
    """A run with two trials, one of which came to a third of its way, from judging to registration."""
    trained, report = tiny_run.judged("pages", 5)
    (trained.folder / "clock.json").write_text('{"used_seconds": 88.5, "budget": "90s"}')
    clock = Clock(key="c", run_id="pages", run_name="90s-words", budget="90s", started=time.time())
    outbox.post(Letter(run_id="pages", run_name="90s-words", tags={KIND_TAG: "train"}, started=clock.started))
    assert Courier.of("pages").place(60) is not None
    for number, steps in enumerate((STEPS, STEPS // 3)):
        journal = trained.folder / "trials" / f"{number}" / "journal.jsonl"
        journal.unlink(missing_ok=True)
        write_journal(journal)
        if number:
            Journal(journal).rewind(steps)
        settings = {"learning.optimizer.learning_rate": 0.01 * (number + 1), "learning.dropout": 0.1}
        status: outbox.Status = "KILLED" if number else "FINISHED"
        kind, score = {KIND_TAG: "trial"}, 2.0 + number
        log_child(clock, f"trial-{number}", kind, settings, journal, score, status, report.unit)
    found = register(trained, report, Promotion(name="pages"))
    outbox.finish("pages", "FINISHED")
    return found


def test_trials_lie_beside_each_other_by_settings_and_score(registered: Registered) -> None:
    client = tracking.client()
    experiment = tracking.experiment_id(client)
    query = f"tags.`{tracking.PARENT_TAG}` = '{registered.mlflow_run_id}' and tags.{KIND_TAG} = 'trial'"
    trials = client.search_runs([experiment], query, order_by=["attributes.run_name ASC"])
    assert [trial.info.run_name for trial in trials] == ["trial-0", "trial-1"]
    rates = [float(trial.data.params["learning.optimizer.learning_rate"]) for trial in trials]
    assert rates == [0.01, 0.02]
    assert [trial.data.metrics["score/bits"] for trial in trials] == [2.0, 3.0]
    assert [trial.data.metrics["score/progress"] for trial in trials] == pytest.approx([1.0, 1 / 3])
    assert {trial.data.tags[UNIT_TAG] for trial in trials} == {"bits per byte"}
    whole = client.search_runs([experiment], f"{query} and metrics.`{MetricName.SCORE_PROGRESS}` = 1")
    assert [trial.info.run_name for trial in whole] == ["trial-0"]


def test_budgets_go_against_scores(registered: Registered) -> None:
    run = tracking.client().get_run(registered.mlflow_run_id)
    assert run.info.run_name == "90s-words-pages"
    assert run.data.params["budget"] == "90s"
    metrics = run.data.metrics
    assert (metrics["budget/seconds"], metrics["budget/used_seconds"]) == (90.0, 88.5)
    assert metrics["test/bits_low"] < metrics["test/bits"] < metrics["test/bits_high"]
    assert {name.partition(".")[0] for name in run.data.params} >= {
        "learning",
        "model",
        "made",
        "data",
        "seed",
    }
    assert len(run.data.params["made.weights"]) == 64
    nested = [name for name, value in run.data.params.items() if name.startswith("plan.") and "{" in value]
    assert nested == []  # whole sections in a column help nobody
    assert {input_.dataset.digest for input_ in run.inputs.dataset_inputs} == {run.data.params["data.digest"]}


def test_registering_again_draws_no_second_point(registered: Registered) -> None:
    trained, report = tiny_run.judged("pages", 5)
    register(trained, report, Promotion(name="pages"))
    run = tracking.client().get_run(registered.mlflow_run_id)
    for name in run.data.metrics:
        points(registered.mlflow_run_id, name)


def test_what_the_machine_did_arrives_as_mlflow_names_it(
    module_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples cost next to nothing, and a run that goes on goes on counting."""
    monkeypatch.setattr("tasks.system_metrics.SAMPLE_SECONDS", 0.0)
    folder = home.run_folder("machine")
    folder.mkdir(parents=True)
    first = SystemMetrics(folder)
    first.look()
    began = time.process_time()
    for _ in range(20):
        first.look()
    assert (time.process_time() - began) / 20 < 0.02  # of a processor; one every ten seconds
    SystemMetrics(folder).look()
    outbox.post(Letter(run_id="machine", run_name="m", system=SYSTEM_JOURNAL, started=time.time()))
    outbox.finish("machine", "FINISHED")
    run = tracking.start_parent("machine", "m", wake=False)
    names = [name for name in tracking.client().get_run(run).data.metrics if name.startswith(SYSTEM_PREFIX)]
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(names)
    for name in names:
        assert sorted(points(run, name)) == list(range(1, 23))


def test_runs_are_compared_by_their_training_first(
    module_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's page of comparison shows the first metric that a run was given."""
    monkeypatch.setattr("tasks.system_metrics.SAMPLE_SECONDS", 0.0)
    folder = home.run_folder("ordered")
    folder.mkdir(parents=True)
    SystemMetrics(folder).look()
    journal = "final/journal.jsonl"
    letter = Letter(
        run_id="ordered", run_name="o", journal=journal, system=SYSTEM_JOURNAL, started=time.time()
    )
    delivery = outbox.Delivery(letter)
    delivery.proceed()
    assert delivery.mlflow_run is not None and not metrics_of(delivery.mlflow_run)
    write_steps("ordered", range(1, 3), journal)
    for _ in range(2):
        delivery.proceed()
    names = metrics_of(delivery.mlflow_run)
    assert names[0] == MetricName.TRAIN_LOSS and names[-1].startswith(SYSTEM_PREFIX)


def metrics_of(run: str) -> list[str]:
    return list(tracking.client().get_run(run).data.metrics)
