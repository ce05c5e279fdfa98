"""Runs beside each other, out of a real MLflow: the right verdicts, and one clear line for what cannot be compared."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tasks import home, tracking
from tasks.artifacts import InputError
from tasks.compare import SCORES, Comparison, compare, show
from tasks.comparison_shown import line, print_comparison
from tasks.effects import NOTHING_SEEN
from tasks.processes import bound_socket
from tasks.recorded import find_run, find_runs
from tasks.seed_noise import stored_noise
from tasks.tracking import UNIT_TAG, MetricName

DOCUMENTS = 40
LOOKS = (10, 20, 30)


def a_run(
    name: str, flow: str, bits: float, unit: str = "bits per byte", first: int = 0, score: bool = True
) -> str:
    """One run as Shoestring leaves it in MLflow, but for what a comparison does not look at; its id there."""
    client = tracking.client()
    run = tracking.start_parent(flow, name, {UNIT_TAG: unit})
    client.log_param(run, "budget", name.partition("-")[0])
    client.log_param(run, "seed", "0")
    for step in range(1, 31):
        client.log_metric(run, MetricName.TRAIN_SECONDS, step / 2, step=step)
    for look in LOOKS:
        client.log_metric(run, MetricName.VALIDATION_BITS, bits + 1 / look, step=look)
    if score:
        dice = np.random.default_rng(int(1000 * bits))
        weight = np.full(DOCUMENTS, 1000)
        nats = bits * np.log(2) * weight * (1 + 0.01 * dice.normal(size=DOCUMENTS))
        ids = [f"d{n}" for n in range(first, first + DOCUMENTS)]
        file = Path(SCORES).name
        pq.write_table(pa.table({"id": ids, "nats": nats, "weight": weight}), file)
        client.log_artifact(run, file, "report")
        figures = {
            MetricName.TEST_BITS: bits,
            f"{MetricName.TEST_BITS}_low": bits - 0.02,
            f"{MetricName.TEST_BITS}_high": bits + 0.02,
            MetricName.TEST_DOCUMENTS: DOCUMENTS,
            MetricName.FINAL_TOKENS: 4e6,
            MetricName.FINAL_SPEED: 4e5,
            MetricName.MODEL_PARAMETERS: 1e6,
            MetricName.USED_SECONDS: 60.0,
        }
        for metric, value in figures.items():
            client.log_metric(run, metric, value)
    tracking.end_run(run, "FINISHED" if score else "FAILED")
    return run


@pytest.fixture(scope="module")
def runs(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Ids in MLflow: two of one recipe, a better one, one on other documents, one in labels, and one that failed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield {
            "long": a_run("5m-words", "aaaa1111-0", 1.80),
            "short": a_run("1m-words", "aaaa2222-0", 2.00),
            "again": a_run("1m-words", "bbbb3333-0", 2.01),
            "elsewhere": a_run("1m-other", "cccc4444-0", 1.90, first=500),
            "labels": a_run("1m-labels", "dddd5555-0", 0.50, "bits per label"),
            "failed": a_run("9m-words", "eeee6666-0", 1.0, score=False),
        }


def verdicts(found: Comparison) -> dict[str, str]:
    names = {run.letter: run.name.partition("-")[0] + run.flow_run_id[:1] for run in found.runs}
    return {f"{names[pair.first]} {names[pair.second]}": pair.verdict for pair in found.pairs}


def test_every_pair_has_a_verdict(runs: dict[str, str]) -> None:
    found = compare(["5m-words", "1m-words"])
    assert [run.name for run in found.runs] == ["5m-words-aaaa1111", "1m-words-aaaa2222", "1m-words-bbbb3333"]
    said = verdicts(found)
    assert said == {
        "5ma 1ma": "A is better",
        "5ma 1mb": "A is better",
        "1ma 1mb": NOTHING_SEEN,
    }
    pair = found.pairs[0]
    assert pair.difference is not None and pair.p_value is not None and pair.p_value_corrected is not None
    assert pair.difference == pytest.approx(-0.2, abs=0.02)
    assert pair.p_value_corrected > pair.p_value
    one = found.runs[0]
    assert (one.budget, one.seed, one.tokens, one.parameters) == ("5m", "0", 4_000_000, 1_000_000)
    assert (one.seconds, one.training_seconds, one.documents) == (60.0, 10.0, DOCUMENTS)
    assert found.curves["A"] == [(look / 2, 1.8 + 1 / look) for look in LOOKS]


def test_other_documents_and_other_units_are_not_compared(runs: dict[str, str]) -> None:
    found = compare(["aaaa1", "cccc", "dddd"])
    assert [run.letter for run in found.runs] == ["A", "B", "C"]
    assert all(pair.verdict.startswith("not comparable: ") for pair in found.pairs)
    assert all(pair.difference is None and pair.p_value is None for pair in found.pairs)
    said = verdicts(found)
    assert "judged on different documents (0 of 40 are the same)" in said["5ma 1mc"]
    assert "bits per label" in said["5ma 1md"]
    corrected = compare(
        ["aaaa", "cccc"]
    ).pairs  # three pairs, of which one can be compared: nothing to correct
    assert [pair.p_value_corrected == pair.p_value for pair in corrected if pair.p_value] == [True]


def test_runs_are_found_by_what_people_call_them(runs: dict[str, str]) -> None:
    client = tracking.client()
    for reference in (
        "aaaa1111-0",
        "aaaa1",
        "5m-words",
        "5m-words-aaaa1111",
        runs["long"],
        runs["long"][:12],
    ):
        assert find_run(client, reference).info.run_id == runs["long"], reference
    assert (
        find_run(client, "last").info.run_id == runs["labels"]
    )  # the failed one came later, without a score
    assert [run.info.run_id for run in find_runs(client, "aaaa")] == [runs["short"], runs["long"]]
    child = tracking.start_child(runs["long"], "trial-0")
    with pytest.raises(InputError, match="there is no run 'trial-0'"):
        find_run(client, "trial-0")
    client.delete_run(child)
    with pytest.raises(InputError, match="'1m-words' stands for 2 runs: give more of its id"):
        find_run(client, "1m-words")
    assert len(compare([]).runs) == 5


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nobody", r"there is no run 'nobody'; the latest .* are 1m-labels-dddd5555, 1m-other"),
        ("x' or 1=1", "is no name of a run"),
        ("9m-words", r"run 9m-words-eeee6666 has no test scores \(it is failed\)"),
        ("no-model/1", "there is no model 'no-model/1'"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(runs: dict[str, str], reference: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as told:
        compare([reference])
    assert "\n" not in str(told.value)


def test_a_run_whose_scores_are_gone_is_named(runs: dict[str, str]) -> None:
    client = tracking.client()
    run = tracking.start_parent("ffff7777-0", "old")
    client.log_metric(run, MetricName.TEST_BITS, 1.0)
    with pytest.raises(InputError, match=r"run old-ffff7777 has no report/test_documents\.parquet"):
        compare(["old"])
    client.delete_run(run)


def test_mlflow_that_is_away_and_an_empty_one_are_said(
    runs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bound_socket(None, "--any") as free:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(InputError, match=r"MLflow at http://.* does not answer"):
        compare([])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "empty")
    with pytest.raises(InputError, match="holds no run that was judged yet"):
        compare([])


def test_what_is_printed_can_be_read(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = StringIO()
    print_comparison(compare(["5m-words", "1m-words", "dddd"]), Console(file=out, width=80))
    said = out.getvalue()
    for part in (
        "5m-words-aaaa1111",
        "1.8000",
        "4 M",
        "A is better",
        "├",
        "bits per label",
        "seconds of training",
    ):
        assert part in said
    assert f"{stored_noise('bits per byte').relative:.0%}" in said
    show(["aaaa"], tmp_path / "runs.png", as_json=True)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run["name"] for run in told["runs"]] == ["5m-words-aaaa1111", "1m-words-aaaa2222"]
    assert told["pairs"][0]["verdict"] == "A is better"
    assert (tmp_path / "runs.png").stat().st_size > 10_000
    show(["last"], None, as_json=False)
    said = capsys.readouterr().out
    assert "nothing to compare" in said
    assert list((home.home() / "comparisons").glob("*.png"))


@pytest.mark.parametrize("name", ["runs.words", "file/runs.png"])
def test_a_picture_that_cannot_be_written_is_said(runs: dict[str, str], name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"name a \.png file with --out"):
        show(["last"], tmp_path / name, as_json=True)


def test_intervals_share_one_scale(runs: dict[str, str]) -> None:
    best, *_, worst = compare(["5m-words", "1m-words"]).runs
    low, high = best.low, worst.high
    assert line(best, low, high).startswith("├") and line(best, low, high).index("●") < 10
    assert line(worst, low, high).endswith("┤")
    assert len(line(best, low, low)) == len(line(best, low, high))
