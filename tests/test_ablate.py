"""What pays: the division of the time, the text that is cleaned less, what is printed, and one whole comparison."""

import csv
import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from flows.what_pays import what_pays
from tasks import home, shares, tracking
from tasks.ablate import check_comparison
from tasks.artifacts import InputError
from tasks.clean import Cleaning, clean_corpus
from tasks.cluster import Compute
from tasks.effects import NOTHING_SEEN
from tasks.ray_session import stop_ray
from tasks.recleaned import objection, packed_alike
from tasks.shares import in_rounds, share_out
from tasks.sides import Validation
from tasks.source import Files
from tasks.spelling import BytePairs
from tasks.split import split_corpus
from tasks.tokens import tokenize_corpus
from tasks.worth import COLUMNS, WhatPays, tell
from tests.test_command import shoestring, start_run, states
from tests.test_effects import described
from tests.test_plan import a_clock
from tests.test_techniques import NOTHING
from training.blueprint import Learning
from training.budget import parse_budget
from training.data import LENGTH, Shards, Slice
from training.model import Scratch
from training.objectives import CausalLanguageModel

BARE = Learning.model_validate(NOTHING)
VALIDATION = Validation(test_share=0.1, validation_share=0.1, folds=2)


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("left", [100.0, 300.0, 1700.0])
def test_the_trainings_fill_the_time_and_no_more(left: float, workers: int) -> None:
    seeds, each = share_out(parse_budget("30m"), left, 4, 3, workers)
    rounds = -(-4 * seeds // workers)
    used = rounds * (each * (1 + shares.LOOK_SHARE) + shares.BETWEEN_SECONDS)
    assert used == pytest.approx(left)
    assert each >= shares.LEAST_SECONDS


def test_where_time_is_short_there_are_fewer_seeds_and_then_a_refusal_with_a_budget_that_suffices() -> None:
    amount = parse_budget("4m")
    assert share_out(amount, 200.0, 8, 3, 2)[0] == 3
    assert share_out(amount, 100.0, 8, 3, 2)[0] == 2
    with pytest.raises(InputError, match=r"16 trainings, and each would have 6 s\..*give at least 5m"):
        share_out(amount, 55.0, 8, 3, 2)
    assert share_out(parse_budget("5m"), 55.0 + 60.0, 8, 3, 2)[0] == 2
    with pytest.raises(InputError, match=r"give at least 3\.5e\+06 tokens"):
        share_out(parse_budget("2M tokens"), 50.0, 8, 3, 2)


def test_every_variant_meets_every_seed_and_no_training_has_the_machine_for_itself() -> None:
    order = in_rounds(5, range(7, 10), 4)
    assert len(order) == 16
    counted = order[:15]
    assert sorted(counted) == [(variant, seed) for variant in range(5) for seed in range(7, 10)]
    assert [seed for _, seed in counted] == sorted(seed for _, seed in counted)  # what drifts meets all alike
    assert len({tuple(number for number, seed in counted if seed == s) for s in range(7, 10)}) > 1
    assert order[15] == (0, 10)


def check(learning: Learning, also: tuple[str, ...] = (), budget: str = "30m", cleaned: bool = False) -> None:
    cleaning = Cleaning() if cleaned else Cleaning(preset="none", duplicates="none")
    compute = Compute(workers=1, device="cpu")
    source = Files(paths=(__file__,))
    check_comparison(
        source, cleaning, CausalLanguageModel(), Scratch(depth=1), learning, compute, also, budget
    )


def test_at_the_door_there_is_something_to_compare_and_time_for_it() -> None:
    check(BARE, ("learning.dropout=0.1",))
    check(BARE, cleaned=True)
    with pytest.raises(InputError, match=r"nothing to take out.*--also learning\.average=0\.1"):
        check(BARE)
    with pytest.raises(InputError, match=r"did you mean .learning\.dropout"):
        check(BARE, ("learning.dropot=0.1",))
    with pytest.raises(InputError, match=r"l1=0.*: the recipe has that already"):
        check(BARE, ("learning.l1=0",))
    with pytest.raises(InputError, match="fp16"):
        check(BARE, ("learning.precision=fp16",))
    with pytest.raises(InputError, match=r"give at least \dm"):
        check(Learning(), budget="1m")


def test_the_text_that_is_cleaned_less_has_the_same_held_out_documents_and_tokens(
    fresh_home: Path, corpus_files: Path
) -> None:
    for number, path in enumerate(sorted(corpus_files.iterdir())):
        if number % 3 == 0:
            (corpus_files / f"copy-{path.name}").write_text(path.read_text())
    source, objective = Files(paths=(str(corpus_files),)), CausalLanguageModel()
    own, less = (
        split_corpus.fn(clean_corpus.fn(source, Cleaning(duplicates=duplicates)), VALIDATION, objective)
        for duplicates in ("equal", "none")
    )
    tokens = tokenize_corpus.fn(own, BytePairs(vocabulary=512), objective, Scratch(), a_clock("5m"))
    assert objection(own, less, ()) is None
    assert objection(own, own, ()) == "changes nothing in this text"

    other = packed_alike(tokens, less, objective)
    assert other == packed_alike(tokens, less, objective)  # from the store
    for file in ("validation.bin", "validation.npy", "test.bin", "shards.json"):
        assert (other.folder / file).read_bytes() == (tokens.folder / file).read_bytes()
    ours, theirs = (Slice(Shards(one.folder)) for one in (tokens, other))
    assert other.tokens["train"] == theirs.tokens() > 1.2 * ours.tokens()
    assert sorted(set(theirs.documents()[:, LENGTH])) == sorted(set(ours.documents()[:, LENGTH]))
    held_out = {text.tobytes() for text in Slice(Shards(other.folder), "validation").texts().documents}
    assert not held_out & {text.tobytes() for text in theirs.texts().documents}


def test_held_out_documents_that_would_be_trained_on_are_an_objection(
    fresh_home: Path, corpus_files: Path
) -> None:
    source, objective = Files(paths=(str(corpus_files),)), CausalLanguageModel()
    corpus = clean_corpus.fn(source, Cleaning())
    own = split_corpus.fn(corpus, VALIDATION, objective)
    moved = split_corpus.fn(corpus, Validation(test_share=0.01, validation_share=0.1, folds=0), objective)
    assert objection(own, moved, ()) == "without it, held-out documents would be trained on"


def finished(run_id: str) -> WhatPays:
    scored = {"worth": 0.3, "low": 0.2, "high": 0.4, "relative": 0.15, "verdict": "pays"}
    return WhatPays(
        key="k",
        run_id=run_id,
        mlflow_run_id="m",
        budget="30m",
        started=0.0,
        unit="bits per byte",
        bits=2.0,
        scores=(2.0, 2.0),
        tokens_per_second=9.0,
        seeds=(0, 1),
        seconds_each=60.0,
        tokens_each=None,
        depth=2,
        watched_tokens=1000,
        effects=(
            described("clipping", None, None).model_copy(
                update={"verdict": "training fails without it", "tokens_per_second": None}
            ),
            described("optimizer", 2.3, 2.3).model_copy(update=scored),
            described("average", 2.0, 2.0, added=True).model_copy(
                update={**scored, "worth": 0.0, "low": -0.1, "high": 0.1, "verdict": NOTHING_SEEN}
            ),
        ),
        left_out={"filters": "changes nothing in this text"},
    )


def test_a_person_and_a_program_read_the_same_verdicts(
    fresh_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = finished("r")
    found.folder.mkdir(parents=True)
    (found.folder / "what-pays.json").write_text(found.model_dump_json())
    tell("r", as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "optimizer on → off +0.300 (+15.0%) +0.200 to +0.400 pays" in told
    assert "average (added)" in told and "training fails without it" in told
    assert "filters left out: changes nothing" in told
    assert "Bonferroni" in told and "what-pays.png" in told
    tell("r", as_json=True)
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["verdict"] for one in answer["effects"]] == [one.verdict for one in found.effects]
    assert (answer["correction"], answer["unit"]) == ("Bonferroni", "bits per byte")
    assert [row["technique"] for row in found.rows()] == [
        "clipping",
        "optimizer",
        "average",
        "the recipe",
        "filters",
    ]


@pytest.mark.slow
def test_ctrl_c_ends_all_trainings_and_nothing_goes_on_with_them(tmp_path: Path) -> None:
    run = start_run(tmp_path, "--set", "model.depth=1", "--budget", "20m", name="ablate")
    until = time.monotonic() + 200
    while not any(tmp_path.glob("runs/*/trainings/*/journal.jsonl")):
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.2)
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "stopped" in errors and "--resume" not in errors
    assert states(tmp_path)[0] == "CANCELLED"
    time.sleep(1)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert shoestring("run", "--resume", "last", home=tmp_path).returncode == 2


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_whole_comparison_says_what_each_technique_is_worth(
    corpus_files: Path, fresh_home: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "LEAST_SECONDS", 1.0)  # so that a short run has several trainings
    monkeypatch.delenv(home.STARTED_VARIABLE, raising=False)
    for number, path in enumerate(sorted(corpus_files.iterdir())):
        if number % 3 == 0:
            (corpus_files / f"copy-{path.name}").write_text(path.read_text())
    try:
        state = what_pays(
            budget="75s",
            seeds=2,
            also=("learning.label_smoothing=0.9",),
            source=Files(paths=(str(corpus_files),)),
            learning=BARE.model_copy(update={"optimizer": Learning().optimizer, "dropout": 0.0}),
            model=Scratch(depth=1),
            validation=VALIDATION,
            compute=Compute(device="cpu"),
            return_state=True,
        )
    finally:
        stop_ray()
    found = state.result()
    assert isinstance(found, WhatPays)
    techniques = {one.technique: one for one in found.effects}
    assert set(techniques) == {"optimizer", "deduplication", "learning.label_smoothing=0.9"}
    assert set(found.left_out) == {"filters"}
    for one in found.effects:
        assert one.worth is not None and one.low is not None and one.high is not None
        assert one.low < one.worth < one.high and (one.tokens_per_second or 0) > 100
        assert len(one.scores) == len(found.seeds) == 2
    smoothed = techniques["learning.label_smoothing=0.9"]
    assert smoothed.worth is not None and smoothed.worth < 0  # which nobody would call a good idea
    assert 1 <= (found.seconds_each or 0) < 40

    journals = list(found.folder.glob("trainings/*/journal.jsonl"))
    assert len(journals) >= 8
    assert state.data is not None
    client = tracking.client()
    parent = client.get_run(str(found.mlflow_run_id))
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["worth/optimizer"] == pytest.approx(techniques["optimizer"].worth)
    there = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert there == {"what-pays.json", "what-pays.csv", "what-pays.png"}
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`{tracking.PARENT_TAG}` = '{parent.info.run_id}'"
    )
    scores = {run.info.run_name: run.data.metrics["score/bits"] for run in children}
    assert scores["optimizer-seed-0"] == pytest.approx(techniques["optimizer"].scores[0])
    with (found.folder / "what-pays.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS and len(rows) == 5
