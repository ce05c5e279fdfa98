"""The workers' start, beside which the command imports all the rest."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ray.train.torch import TorchTrainer

from tasks.artifacts import InputError
from tasks.cluster import Compute
from tasks.processes import bound_socket
from tasks.ray_session import start_ray, stop_ray
from tasks.workers import Trainer, Workers
from tests.planted import planted_blueprint, planted_tokens
from training.budget import Wall
from training.objectives import CausalLanguageModel
from training.worker import Assignment

IN_A_THREAD = """
import sys
from pathlib import Path
from tasks import home
home.use_home(Path(sys.argv[1]))
from tasks.cluster import Compute
from tasks.ray_session import WHEN_STARTED, import_ahead, start_ray, stop_ray
from tasks import workers
import_ahead(WHEN_STARTED)
before = {name.partition(".")[0] for name in sys.modules}
start_ray()
started = {name.partition(".")[0] for name in sys.modules}
workers.import_ahead(workers.WHEN_TRAINING)
known = set(sys.modules)
workers.workers_of(Compute()).wait_ready()
later = set(sys.modules) - known
stop_ray()
print(sorted(started - before - set(sys.stdlib_module_names)))
print(sorted(name for name in later if not name.startswith("ray.")))
"""


@pytest.mark.slow
def test_ray_imports_nothing_in_its_threads_that_others_might_import_at_that_moment(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]


def test_a_cluster_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound_socket(None, "--any") as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"no Ray cluster answers at RAY_ADDRESS={address}"):
        start_ray()


def test_helpers_that_are_left_out_are_called_as_ray_calls_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray renames one, it starts again, which only time would show."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert missing() == {"DatasetsCallback", "PlacementGroupCleanerCallback"}
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert missing() == {"DatasetsCallback"}


def missing() -> set[str]:
    """What Ray Train's own trainer has at work and ours has not."""
    usual, ours = (
        {type(one).__name__ for one in kind(print)._create_default_callbacks()}
        for kind in (TorchTrainer, Trainer)
    )
    return usual - ours


@pytest.fixture
def workers(module_home: Path) -> Iterator[Workers]:
    """One of them, which starts up still."""
    group = Workers(Compute(workers=1, device="cpu"))
    yield group
    group.release()
    stop_ray()


@pytest.mark.usefixtures("prefect_server")
def test_a_training_that_no_worker_has_begun_is_stopped_like_any_other(
    workers: Workers, tmp_path: Path
) -> None:
    tokens = planted_tokens(tmp_path, CausalLanguageModel())
    blueprint = planted_blueprint(tokens, CausalLanguageModel())
    clock = Wall(time.time() + 120)
    assignment = Assignment(tmp_path / "training", blueprint, tokens.folder, clock)
    with ThreadPoolExecutor(1) as threads:
        training = threads.submit(workers.carry_out, assignment)
        while not list(workers.folder.rglob("*.job")):
            time.sleep(0.001)
        workers.save_all(seconds=0)
        assert training.result(timeout=60).summary.stopped
