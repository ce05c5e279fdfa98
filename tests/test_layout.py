"""The walls of DESIGN.md: arrows, names, sizes, and nothing of one machine in the tree."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks
import training
from tasks.processes import ROOT
from training.config import Choice

FLOORS = ("flows", "tasks", "training")
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base"}
FRAMEWORKS = {"prefect", "mlflow", "optuna", "ray"}
RAY_DOOR = "training/desk.py"  # the one file below tasks/ that Ray Train enters by
MOST_LINES = 330  # STYLE says about 300
MOST_FUNCTION_LINES = 66  # STYLE says about 60
LONGER = {"training/loop.py"}  # the training loop is one story
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(home|root|Users|work|mnt|opt)/\w")
REGISTRY = re.compile(
    r"(pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.org|--(extra-)?index-url)"
)


def python_files(*floors: str) -> list[Path]:
    return sorted(path for floor in floors for path in (ROOT / floor).rglob("*.py"))


def names_of(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def tracked_files() -> list[Path]:
    """What git tracks or would; a tree without git is taken as it lies."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = listing.stdout.splitlines() or names_of(python_files(*FLOORS, "tests"))
    return [ROOT / line for line in lines if (ROOT / line).is_file()]


def imports_of(path: Path) -> Iterator[str]:
    """Top-level names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def choices() -> list[type[Choice]]:
    """Every member of every family."""
    for package in (tasks, training):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found: list[type[Choice]] = []
    waiting = [Choice]
    while waiting:
        children = waiting.pop().__subclasses__()
        waiting += children
        found += [child for child in children if not child.__module__.startswith("tests")]
    return sorted((c for c in found if "kind" in c.model_fields), key=lambda choice: choice.__qualname__)


def snake_case(name: str) -> str:
    """`PythonStdlib` -> `python_stdlib`; capitals in a row are one word, also at the end: `AdamW` -> `adamw`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def test_arrows_point_down_only() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", names_of(python_files("training")))
def test_training_runs_on_a_bare_worker(path: str) -> None:
    allowed = {"ray"} if path == RAY_DOOR else set()
    assert not FRAMEWORKS & set(imports_of(ROOT / path)) - allowed


def test_flow_files_bear_no_name_of_an_importable_module() -> None:
    """Prefect loads a flow's file as a top-level module and leaves flows/ on `sys.path`."""
    program = (
        "import sys, importlib.util as u; sys.path = [p for p in sys.path if p];"
        "print([n for n in sys.argv[1:] if u.find_spec(n)])"
    )
    names = [path.stem for path in python_files("flows") if not path.stem.startswith("__")]
    done = subprocess.run(
        [sys.executable, "-c", program, *names], cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_flow_files_define_flows_only() -> None:
    for path in python_files("flows"):
        if path.stem.startswith("__"):
            continue
        for node in ast.parse(path.read_text()).body:
            assert not isinstance(node, ast.ClassDef), f"{path.name} defines the type {node.name}"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                decorators = {ast.unparse(d).split("(")[0] for d in node.decorator_list}
                assert decorators & {"flow"}, f"{path.name}: {node.name} is no flow"


@pytest.mark.parametrize("path", names_of(python_files(*FLOORS, "tests")))
def test_files_and_functions_stay_readable(path: str) -> None:
    text = (ROOT / path).read_text()
    assert len(text.splitlines()) <= MOST_LINES
    if path in LONGER:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    assert not [path for path in tracked_files() if path.stem in FORBIDDEN_NAMES]


def test_nothing_of_one_machine_and_no_registry_is_in_the_tree() -> None:
    guilty = []
    for path in tracked_files():
        if path == Path(__file__) or path.suffix in {".png", ".gz", ".zst", ".parquet"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        guilty += [f"{path.name}: {m[0]}" for rule in (MACHINE_PATH, REGISTRY) for m in rule.finditer(text)]
    assert not guilty


def test_the_rule_for_names_of_choices() -> None:
    named = {
        "AdamW": "adamw",
        "PythonStdlib": "python_stdlib",
        "Muon": "muon",
        "DDP": "ddp",
        "Files": "files",
    }
    assert {name: snake_case(name) for name in named} == named


@pytest.mark.parametrize("choice", choices(), ids=lambda choice: choice.__name__)
def test_a_choice_is_called_as_its_class(choice: type[Choice]) -> None:
    assert choice.model_fields["kind"].default == snake_case(choice.__name__)


@pytest.mark.parametrize("choice", choices(), ids=lambda choice: choice.__name__)
def test_a_choice_says_what_it_is_for(choice: type[Choice]) -> None:
    assert inspect.getdoc(choice) and inspect.getdoc(choice) != inspect.getdoc(Choice)
