"""What commands have in common: options with their help, read before anything slow is imported."""

from pathlib import Path
from typing import Annotated

import typer

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
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")
]
