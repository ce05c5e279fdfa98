"""What tests share: a home of their own, one real Prefect server, a tiny corpus of real text."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tasks import home

# Prefect, Ray and MLflow read the environment when imported, which the first test module does.
# Nothing of the machine's own set-up may reach the tests, nor the other way round.
SESSION_HOME = Path(tempfile.mkdtemp(prefix="shoestring-tests-"))
for name in (
    "PREFECT_API_URL",
    "PREFECT_HOME",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "RAY_ADDRESS",
):
    os.environ.pop(name, None)
os.environ["HF_HUB_OFFLINE"] = "1"
home.use_home(SESSION_HOME)

CORPUS_DOCUMENTS = 200
SNIPPET_CHARACTERS = 600


@pytest.fixture(scope="session", autouse=True)
def _sweep() -> Iterator[None]:
    yield
    shutil.rmtree(SESSION_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def _session_server() -> Iterator[str]:
    from tasks.server import prefect_server

    with prefect_server() as url:
        os.environ.pop("PREFECT_API_URL", None)
        yield url
        os.environ["PREFECT_API_URL"] = url


@pytest.fixture(scope="session")
def prefect_database(_session_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the session's Prefect database as it is now, to copy into a `PREFECT_HOME`."""
    folder = tmp_path_factory.mktemp("database")
    with (
        closing(sqlite3.connect(SESSION_HOME / "prefect" / "prefect.db")) as live,
        closing(sqlite3.connect(folder / "prefect.db")) as copy,
    ):
        live.backup(copy)
    shutil.copy(SESSION_HOME / "prefect" / "memo_store.toml", folder)
    return folder


@pytest.fixture
def fresh_home(tmp_path: Path) -> Iterator[Path]:
    """An empty home, for this process and its children; Prefect keeps its cached results there."""
    before = {name: os.environ.get(name) for name in (home.HOME_VARIABLE, "PREFECT_HOME", "PREFECT_API_URL")}
    os.environ.pop("PREFECT_HOME", None)
    place = home.use_home(tmp_path / "home")
    _read_settings_again()
    yield place
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _read_settings_again()


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home for all tests of a module, with MLflow's database in it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(home.HOME_VARIABLE, str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture
def prefect_server(_session_server: str) -> Iterator[str]:
    """The address of a real Prefect server, one for the whole session; flows of this test run on it."""
    os.environ["PREFECT_API_URL"] = _session_server
    _read_settings_again()
    yield _session_server
    os.environ.pop("PREFECT_API_URL", None)
    _read_settings_again()


def _read_settings_again() -> None:
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


@pytest.fixture(scope="session")
def corpus_texts() -> list[str]:
    """200 pieces of the standard library, 600 characters each, the same on every run of one Python."""
    library = Path(json.__file__).parents[1]
    pieces: list[str] = []
    for path in sorted(library.glob("[a-t]*.py")):
        text = path.read_text(encoding="utf-8")
        starts = range(0, min(len(text) - SNIPPET_CHARACTERS, 4 * SNIPPET_CHARACTERS), SNIPPET_CHARACTERS)
        pieces += [text[start : start + SNIPPET_CHARACTERS] for start in starts]
    return pieces[:CORPUS_DOCUMENTS]


@pytest.fixture
def corpus_files(tmp_path: Path, corpus_texts: list[str]) -> Path:
    """The same pieces as a folder of text files."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(corpus_texts):
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return folder
