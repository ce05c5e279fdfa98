"""Runs as MLflow holds them, found by what people call them, and the files that they left there."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tasks import tracking
from tasks.artifacts import InputError
from tasks.tracking import FLOW_RUN_TAG, MetricName

if TYPE_CHECKING:
    from mlflow import MlflowClient

Run = Any  # mlflow.entities.Run, of which mypy knows nothing
LAST = "last"
MOST_MATCHES = 20  # runs that one name may stand for
NAMEABLE = re.compile(r"[\w.@/:+~ -]+")
JUDGED = f"metrics.`{MetricName.TEST_BITS}` > 0"


def newest_judged(client: "MlflowClient", most: int) -> list[Run]:
    """The runs of this experiment that have a test score, the newest first."""
    return list(_search(client, JUDGED, most))


def find_runs(client: "MlflowClient", reference: str) -> list[Run]:
    """The runs of flows that a reference stands for, the newest first.

    It is `last`, a run's name or id, in MLflow or Prefect, or how any of these begins, or a registered
    version as NAME/VERSION or NAME@ALIAS. Raises InputError where there is none.
    """
    if not NAMEABLE.fullmatch(reference):
        raise InputError(f"{reference!r} is no name of a run: give its name, its id, or how one begins")
    if reference == LAST:
        found = newest_judged(client, 1)
    elif "/" in reference or "@" in reference:
        found = [_behind(client, reference)]
    else:
        begins = [f"{field} LIKE '{reference}%'" for field in _names()]
        known = {run.info.run_id: run for query in begins for run in _search(client, query, MOST_MATCHES)}
        found = sorted(known.values(), key=lambda run: -run.info.start_time)
        named = [run for run in found if reference in (run.info.run_name, run.info.run_id)]
        found = named or found
    if not found:
        raise InputError(f"there is no run {reference!r}; {there_are(newest_judged(client, 5))}")
    return found


def find_run(client: "MlflowClient", reference: str) -> Run:
    """The one run that a reference stands for. Raises InputError where there are several, or none."""
    found = find_runs(client, reference)
    if len(found) > 1:
        raise InputError(
            f"{reference!r} stands for {len(found)} runs: give more of its id; {there_are(found[:5])}"
        )
    return found[0]


def there_are(runs: Sequence[Run]) -> str:
    """Runs by name, as one part of a sentence."""
    names = ", ".join(run.info.run_name or run.info.run_id for run in runs)
    where = f"experiment {tracking.settings().experiment!r} at {tracking.tracking_uri()}"
    return f"the latest in {where} are {names}" if names else f"{where} holds none that was judged"


def _names() -> tuple[str, ...]:
    return "attributes.run_id", f"tags.`{FLOW_RUN_TAG}`", "attributes.run_name"


def _search(client: "MlflowClient", query: str, most: int) -> Iterator[Run]:
    """Runs of flows that a query finds, without trials and folds."""
    yield from client.search_runs(
        [tracking.experiment_id(client)],
        f"{query} and tags.`{FLOW_RUN_TAG}` LIKE '%'",
        max_results=most,
        order_by=["attributes.start_time DESC"],
    )


def _behind(client: "MlflowClient", reference: str) -> Run:
    """The run that a registered version came from."""
    from tasks.generate import find_version  # which imports torch

    version = find_version(client, reference)
    if not version.run_id:
        raise InputError(f"{reference} was not registered by a run")
    return client.get_run(version.run_id)


@contextmanager
def file_of(client: "MlflowClient", run: Run, path: str) -> Iterator[Path | None]:
    """A file that a run left in MLflow, as long as the block lasts; None where it left none of this name."""
    folder, _, _ = path.rpartition("/")
    if path not in {file.path for file in client.list_artifacts(run.info.run_id, folder or None)}:
        yield None
        return
    with TemporaryDirectory(prefix="shoestring-") as scratch:
        yield Path(client.download_artifacts(run.info.run_id, path, scratch))
