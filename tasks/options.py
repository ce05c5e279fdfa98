"""What commands have in common: options with their help, read before anything slow is imported."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from tasks import home
from tasks.artifacts import InputError


def _settle(folder: Path | None) -> Path | None:
    """Settles on the home before any command imports what reads it."""
    try:
        home.use_home(folder)
    except OSError as problem:
        raise InputError(
            f"the home folder {folder or home.home()} cannot be written ({problem.strerror}): name another with --home"
        ) from None
    return folder


HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        callback=_settle,
        is_eager=True,
        help="Where everything lies. Default: $SHOESTRING_HOME, or ./.shoestring",
        show_default=False,
    ),
]
RecipeArgument = Annotated[
    str, typer.Argument(help="A recipe by name (`shoestring recipes` lists them) or a YAML file.")
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Time from start to exit: 90s, 5m, 1h30m. Default: the recipe's, or 5m.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.FIELD=VALUE",
        help="Changes one setting, such as model.depth=4; may be repeated.",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Another seed, another training. Default: 0", show_default=False),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="name@alias, name/version or a folder. Default: the newest champion.",
        show_default=False,
    ),
]
NameArgument = Annotated[
    str, typer.Argument(help="A registered model; the prefix `shoestring-` may be left out.")
]
ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", help="Why; kept with your name and the time.", show_default=False),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")
]
EachJsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for each text.")]
FilesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        metavar="PATH",
        help="Take many: files, folders, globs, addresses, - for a pipe; may be repeated. A text file holds one a"
        " line, a folder one a file, a table (jsonl, csv, parquet) one a row.",
        show_default=False,
    ),
]
ColumnOption = Annotated[str, typer.Option("--column", help="Column of tables that holds the text.")]
EachOption = Annotated[
    Literal["line", "file"] | None,
    typer.Option("--each", help="What a text is in text files, wherever they lie.", show_default=False),
]
PipedOption = Annotated[
    Literal["txt", "jsonl", "csv", "tsv"], typer.Option("--piped-as", help="What is piped in.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="A new file: .jsonl, .csv or .parquet.", show_default=False),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        help="Go on with an interrupted run (its id, or `last`) and what was left of its budget.",
        show_default=False,
    ),
]
LongBudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Time for all trainings together: 10m, 1h. Default: the recipe's, or 30m.",
        show_default=False,
    ),
]
RetrainBudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Time for everything, both trainings together: 10m, 1h. Default: the recipe's, or 10m.",
        show_default=False,
    ),
]
SeenOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="A file or folder of what the model is given these days, to look for drift; may be repeated."
        " Default: the new documents.",
        show_default=False,
    ),
]
SeedsOption = Annotated[
    int,
    typer.Option(min=2, max=20, help="Trainings of each variant, at most; more find smaller differences."),
]
AlsoOption = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="FIELD=VALUE",
        help="Adds one setting in turn, too, such as learning.average=0.1; may be repeated.",
        show_default=False,
    ),
]
BudgetsOption = Annotated[
    str, typer.Option(metavar="TIME,TIME,...", help="Two or more budgets, each for a whole run: 5m,20m,1h.")
]
RunsOption = Annotated[int, typer.Option(min=1, max=20, help="Runs of each budget, each with its own seed.")]


@contextmanager
def mistakes_told() -> Iterator[None]:
    """Within, what the user can mend ends in one clear message and exit code 2."""
    errors = Console(stderr=True, highlight=False)
    try:
        yield
    except InputError as problem:
        errors.print(f"[red]✗[/red] {escape(str(problem))}", soft_wrap=True)
        sys.exit(2)
    except OSError as problem:
        if problem.errno != errno.ENOSPC:
            raise
        full = f"no space left in {home.home()}: `shoestring prune` frees some"
        errors.print(f"[red]✗[/red] {full}", soft_wrap=True)
        sys.exit(2)
