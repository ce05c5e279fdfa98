"""MLflow's settings and runs: precedence, honest errors, one run per flow run."""

import logging
import threading
from pathlib import Path

import pytest

from tasks import home, tracking
from tasks.artifacts import InputError
from tasks.tracking import MetricName


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(home.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_project_file_is_what_is_documented() -> None:
    assert tracking.settings() == tracking.TrackingSettings.model_validate({})


def test_precedence_is_flag_environment_file_home(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.tracking_uri() == f"sqlite:///{own_home}/home/mlflow.db"
    Path("mlflow.yaml").write_text("tracking_uri: http://file\nexperiment: of-file\n")
    assert tracking.tracking_uri() == "http://file"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of-environment")
    assert tracking.tracking_uri() == "http://environment"
    settings = tracking.settings({"tracking_uri": "http://flag", "experiment": None})
    assert (settings.tracking_uri, settings.experiment) == ("http://flag", "of-environment")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experimant: x", "'experimant'; did you mean 'experiment'"),
        ("aliases: {champoin: best}", "'aliases.champoin'; did you mean 'aliases.champion'"),
        ("alpha: 2", "alpha: .*less than 0.5"),
        ("tracking_uri: ./mlruns", "is a folder"),
        ("a: [", "not YAML"),
        ("- 1", "holds list"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(text: str, message: str) -> None:
    Path("mlflow.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        tracking.settings()
    assert "mlflow.yaml" in str(caught.value)


def test_a_server_decides_where_its_files_lie(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.artifact_location() == (own_home / "home" / "mlartifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking.artifact_location() is None


def test_the_same_flow_run_has_one_run_and_one_child_of_a_name() -> None:
    parent = tracking.start_parent("flow-1", "python-code", {"budget": "5m"})
    tracking.end_run(parent, "KILLED")
    assert tracking.client().get_run(parent).info.status == "KILLED"
    assert tracking.start_parent("flow-1", "python-code", {"budget": "6m"}) == parent
    again = tracking.client().get_run(parent)
    assert again.info.status == "RUNNING"
    assert again.data.tags["budget"] == "6m"
    other = tracking.start_parent("flow-2", "python-code")
    trial = tracking.start_child(parent, "trial 1")
    assert trial == tracking.start_child(parent, "trial 1")
    assert (
        len(
            {
                parent,
                other,
                trial,
                tracking.start_child(other, "trial 1"),
                tracking.start_child(parent, "trial 2"),
            }
        )
        == 5
    )


def test_metric_names_are_accepted() -> None:
    run = tracking.start_parent("flow-1", "names")
    for name in MetricName:
        tracking.client().log_metric(run, name, 1.0, step=3)
    assert set(tracking.client().get_run(run).data.metrics) == {str(name) for name in MetricName}


def test_many_may_prepare_at_once(own_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    problems: list[BaseException] = []

    def prepare() -> None:
        try:
            tracking.prepare()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert [e.name for e in tracking.client().search_experiments()].count("shoestring") == 1
    assert capfd.readouterr().err == ""
    assert logging.getLogger("alembic").level == logging.ERROR


def test_a_deleted_experiment_is_an_error_that_says_what_to_do() -> None:
    client = tracking.client()
    client.delete_experiment(tracking.experiment_id(client))
    with pytest.raises(InputError, match="mlflow experiments restore"):
        tracking.start_parent("flow", "name")
