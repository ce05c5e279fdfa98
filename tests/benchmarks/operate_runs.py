"""What running costs beside training: bare or orchestrated, with deaths, from the form, and the page of many runs."""

import json
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tasks.home import FOR_SPEED
from tests.benchmarks.figures import Figure
from tests.benchmarks.planning_runs import OURS_TO_SET, ROOT, SHOESTRING, Observed, Request, observe
from training.blueprint import Blueprint
from training.budget import TokenCount
from training.worker import Assignment, carry_out_in_group

UP_SECONDS = 180.0
RUNS_ON_PAGE, SHOWN = 2000, 100  # of which the page asks for so many at a time
LISTS = 5
MODEL, WARMING = ("model.depth=2",), "90s"
POLL_SECONDS = 0.1
Say = Callable[[str], None]


def measure_cost(home: Path, budget: str, say: Say) -> list[Figure]:
    """A run, and its final training again without Ray, Prefect and MLflow: what all of them took beside it."""
    seen = observe(Request("python-code", budget), home, say)
    found = seen.result()
    bare = train_bare(Path(found["run_folder"]), home, found["tokens_trained"])
    stages = found["stage_seconds"]
    trained = stages["Train the final model"]
    outside = seen.seconds - sum(stages.values())
    cost = outside + trained - bare
    allowed = 0.03 * seen.budget_seconds + 10
    say(f"{trained:.1f} s of training, bare {bare:.1f}; {outside:.1f} s outside of all stages")
    return [
        one(f"orchestration of a run of {budget}", cost, "s", f"<= {allowed:g}"),
        one(f"outside of all stages, {budget}", outside, "s"),
        one(f"the final training, less the same one bare, {budget}", trained - bare, "s"),
    ]


def train_bare(run: Path, home: Path, tokens: int) -> float:
    """Seconds of the run's final training by processes that share a group, and nothing else."""
    blueprint = Blueprint.model_validate_json((run / "blueprint.json").read_text())
    record = json.loads((run / "trained.json").read_text())
    folder = run / "bare"
    folder.mkdir()
    assignment = Assignment(
        folder=folder,
        blueprint=blueprint,
        shards=home / "store" / "tokens" / record["tokens"]["key"],
        clock=TokenCount(tokens),
        looks=(),
        keep_model=True,
    )
    workers = record["workers"]
    os.environ.update(FOR_SPEED)  # what makes training fast is not the orchestration's to cost or to save
    fresh = multiprocessing.get_context("spawn")
    group = [
        fresh.Process(
            target=carry_out_in_group,
            args=(assignment, rank, workers, folder / "meeting", folder / f"{rank}.log"),
        )
        for rank in range(workers)
    ]
    began = time.monotonic()
    for process in group:
        process.start()
    for process in group:
        process.join()
    if any(process.exitcode for process in group):
        raise RuntimeError((folder / "0.log").read_text()[-2000:])
    return time.monotonic() - began


def measure_deaths(home: Path, budget: str, every: float, say: Say) -> list[Figure]:
    """A run whose workers die again and again against one that is left alone: goodput, and how soon it goes on.

    Both find the text cleaned, and train the same model.
    """
    observe(Request("python-code", WARMING), home, say).result()
    alone = observe(Request("python-code", budget, settings=MODEL), home, say)
    with killing(home, every) as deaths:
        struck = observe(Request("python-code", budget, settings=MODEL, seed=1), home, say)
    steps = step_times(Path(struck.result()["run_folder"]))
    waits = [after[0] - death for death in deaths if (after := [at for at in steps if at > death])]
    say(f"{len(deaths)} deaths, to the next step: {', '.join(f'{wait:.1f}' for wait in waits)} s")
    if not waits:
        raise RuntimeError("no worker died while it trained: give a longer --budget")
    kept = [one_of(run)["tokens_trained"] for run in (struck, alone)]
    return [
        one(f"goodput with a death every {every:g} s of {budget}", 100 * kept[0] / kept[1], "%", ">= 85"),
        Figure(
            "operate",
            "a dead worker to the next step",
            statistics.median(waits),
            min(waits),
            max(waits),
            "s",
            "<= 30",
        ),
    ]


def one_of(run: Observed) -> dict[str, Any]:
    """What it found, of a run that must have ended on time."""
    if not run.on_time:
        raise RuntimeError(f"it took {run.seconds:.0f} s of {run.budget_seconds:.0f}: {run.errors[-500:]}")
    return run.result()


@contextmanager
def killing(home: Path, every: float) -> Iterator[list[float]]:
    """Kills one of the home's workers after every so many seconds; when, in Unix time."""
    deaths, over = list[float](), threading.Event()

    def kill() -> None:
        while not over.wait(every):
            found = [process for process in psutil.process_iter(["cmdline"]) if is_worker(process)]
            if found:
                with suppress(psutil.NoSuchProcess):
                    found[-1].send_signal(signal.SIGKILL)
                    deaths.append(time.time())

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield deaths
    finally:
        over.set()
        thread.join()


def is_worker(process: psutil.Process) -> bool:
    """Whether it trains under Ray."""
    return "RayTrainWorker" in " ".join(process.info["cmdline"] or ())


def step_times(run: Path) -> list[float]:
    """When each step of any training of the run was written down, in Unix time."""
    events = [
        json.loads(line)
        for journal in run.glob("**/journal.jsonl")
        for line in journal.read_text().splitlines()
        if line.endswith("}")
    ]
    return sorted(event["time"] for event in events if event["event"] == "step")


def measure_latency(home: Path, seeds: int, say: Say) -> list[Figure]:
    """From the form's Run button to a running stage and to a training's first step, where the corpus is known."""
    observe(Request("python-code", WARMING), home, say).result()
    to_stage, to_step = [], []
    with pages(home) as (prefect, _):
        for _ in range(seeds):
            stage, step = start_from_form(prefect, home)
            to_stage.append(stage)
            to_step.append(step)
            say(f"a stage after {stage:.1f} s, a step after {step:.1f} s")
    return [
        spread("from the form to the first stage", to_stage, "s", "<= 15"),
        spread("from the form to the first step of a training", to_step, "s"),
    ]


def start_from_form(prefect: str, home: Path) -> tuple[float, float]:
    """Seconds to a stage under way, and to a step of any training, upon which the run is cancelled."""
    deployment = asked(f"{prefect}/api/deployments/name/train-best-model/train-on-demand")
    began = time.time()
    run = asked(
        f"{prefect}/api/deployments/{deployment['id']}/create_flow_run", {"parameters": {"budget": "5m"}}
    )
    body = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    stage = step = 0.0
    while not step:
        state = asked(f"{prefect}/api/flow_runs/{run['id']}")["state"]["type"]
        if not stage and asked(f"{prefect}/api/task_runs/filter", body):
            stage = time.time() - began
        times = step_times(home / "runs" / run["id"])
        step = times[0] - began if times else 0.0
        if state in ("FAILED", "CRASHED", "CANCELLED") or time.time() - began > UP_SECONDS:
            raise RuntimeError(f"the run from the form is {state}")
        time.sleep(POLL_SECONDS)
    asked(f"{prefect}/api/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    while asked(f"{prefect}/api/flow_runs/{run['id']}")["state"]["type"] != "CANCELLED":
        time.sleep(1)
    return stage, step


def measure_page(home: Path, say: Say) -> list[Figure]:
    """How long MLflow's page waits for its list where there are many runs."""
    write_runs(home, say)
    took = []
    with pages(home) as (_, mlflow):
        search = f"{mlflow}/ajax-api/2.0/mlflow/runs/search"
        asked(search, {"experiment_ids": ["1"], "max_results": 1})  # the server's own warming up
        for _ in range(LISTS):
            began = time.monotonic()
            body = {"experiment_ids": ["1"], "max_results": SHOWN, "order_by": ["attributes.start_time DESC"]}
            listed = asked(search, body)["runs"]
            took.append(time.monotonic() - began)
            if len(listed) != SHOWN:
                raise RuntimeError(f"{len(listed)} runs listed, not {SHOWN}")
    return [spread(f"MLflow's list, of {RUNS_ON_PAGE:,} runs", took, "s", "<= 2")]


def write_runs(home: Path, say: Say) -> None:
    """Runs as Shoestring's are: some dozens of parameters and figures each."""
    os.environ["SHOESTRING_HOME"] = str(home)
    from mlflow.entities import Metric, Param, RunTag

    from tasks.home import use_home
    from tasks.tracking import client, experiment_id, prepare

    use_home(home)
    prepare()
    there, moment = client(), int(time.time() * 1000)
    experiment = experiment_id(there)
    for number in range(RUNS_ON_PAGE):
        run = there.create_run(experiment, run_name=f"run-{number}", start_time=moment + number)
        there.log_batch(
            run.info.run_id,
            metrics=[Metric(f"test/figure_{n}", number + n, moment, 0) for n in range(30)],
            params=[Param(f"learning.setting_{n}", str(n)) for n in range(50)],
            tags=[RunTag("kind", "train-best-model")],
        )
        there.set_terminated(run.info.run_id, "FINISHED")
        if number % 500 == 499:
            say(f"{number + 1:,} runs written")


@contextmanager
def pages(home: Path) -> Iterator[tuple[str, str]]:
    """The addresses of the Prefect and the MLflow page, while `shoestring ui` runs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS_TO_SET)} | {"COLUMNS": "160"}
    said = home / "ui.out"
    with said.open("w") as file:
        process = subprocess.Popen(
            [str(SHOESTRING), "ui", "--home", str(home)], cwd=ROOT, env=environment, stdout=file, stderr=file
        )
    try:
        until = time.monotonic() + UP_SECONDS
        while "ctrl-c closes" not in said.read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(said.read_text()[-2000:])
            time.sleep(POLL_SECONDS)
        addresses = re.findall(r"http://[\d.]+:\d+", said.read_text())
        yield addresses[0], addresses[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def asked(address: str, body: dict[str, Any] | None = None) -> Any:
    """The answer of a server, as its page asks."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def one(name: str, value: float, unit: str, must: str | None = None) -> Figure:
    """A number that was measured once."""
    return Figure("operate", name, value, None, None, unit, must)


def spread(name: str, values: list[float], unit: str, must: str | None = None) -> Figure:
    """The median, and the least and the most."""
    return Figure("operate", name, statistics.median(values), min(values), max(values), unit, must)
