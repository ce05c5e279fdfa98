"""The commands that run no flow: on text, on models, and on the home folder."""

from pathlib import Path
from typing import Annotated

import typer

from tasks import home
from tasks.options import HomeOption, JsonOption, ModelOption, NameArgument, ReasonOption, SetOption

app = typer.Typer(rich_markup_mode="markdown")


@app.command("clean-text")
def clean_text(
    files: Annotated[list[str], typer.Argument(help="Files, folders, globs and addresses (s3://...).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.")],
    preset: Annotated[
        str | None, typer.Option(help="any, code, prose, web or none. Default: any", show_default=False)
    ] = None,
    settings: SetOption = None,
    home_folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Clean text and no more: mend, filter, deduplicate; say what went, why, and show examples.

    Examples: `shoestring clean-text notes/ -o clean`,
    `shoestring clean-text 'crawl/*.jsonl.zst' -o clean --preset web`,
    `shoestring clean-text notes/ -o clean --set cleaning.duplicates=equal`.
    """
    home.quiet()
    from tasks.clean_text import clean_text, tell

    tell(clean_text(files, out, preset, settings or []), out, as_json)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on with.")],
    model: ModelOption = None,
    tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Tokens to write at most.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0, max=5, help="0 always takes the likeliest token; 1 draws as learned.")
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option(min=0, help="Draw among so many likeliest tokens; 0: among all.")
    ] = 50,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same text.")] = 0,
    home_folder: HomeOption = None,
) -> None:
    """Write on from a prompt with a trained model."""
    from tasks.generate import complete, resolve_model

    pieces = complete(resolve_model(model), prompt, tokens, temperature, top_k, seed)
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


@app.command()
def predict(
    text: Annotated[
        str | None,
        typer.Argument(help="A text to label, or one with a [MASK] to fill. Without: lines from a pipe."),
    ] = None,
    model: ModelOption = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Take every line of a file as a text.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each text.")] = False,
    home_folder: HomeOption = None,
) -> None:
    """Say a text's label, or fill its gaps, with a trained classifier or masked model.

    Examples: `shoestring predict 'def parse(text): ...'`, `shoestring predict 'for [MASK] in range(3):'`,
    `shoestring predict --file texts.txt > labels.tsv`.
    """
    from tasks.generate import resolve_model
    from tasks.predict import answer

    answer(resolve_model(model), text, file, as_json)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder, which transformers loads anywhere.")],
    model: ModelOption = None,
    home_folder: HomeOption = None,
) -> None:
    """Copy a model out of the registry as a Hugging Face folder."""
    from tasks.generate import describe_export, export_model

    print(describe_export(export_model(folder, model)))


@app.command()
def promote(
    name: NameArgument,
    version: Annotated[
        int | None, typer.Argument(min=1, help="Default: the newest.", show_default=False)
    ] = None,
    reason: ReasonOption = None,
    home_folder: HomeOption = None,
) -> None:
    """Name a version champion by hand, whatever the gate said; who did, when and why stays with it.

    Examples: `shoestring promote python-code`, `shoestring promote python-code 3 --reason 'reads better'`.
    """
    from tasks.champions import promote

    print(promote(name, version, reason))


@app.command()
def rollback(name: NameArgument, reason: ReasonOption = None, home_folder: HomeOption = None) -> None:
    """Go back to the champion before; again, to the one before that.

    Example: `shoestring rollback python-code --reason 'it repeats itself'`.
    """
    from tasks.champions import rollback

    print(rollback(name, reason))


@app.command()
def history(name: NameArgument, home_folder: HomeOption = None, as_json: JsonOption = False) -> None:
    """List a model's versions: when, score, what the gate said, who was named champion by hand, and which is."""
    from tasks.champions import history, tell_history

    tell_history(name, history(name), as_json)


@app.command()
def ui(
    prefect_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 4200, or any free one.", show_default=False)
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 5000, or any free one.", show_default=False)
    ] = None,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the pages of this home, from any terminal.")
    ] = False,
    home_folder: HomeOption = None,
) -> None:
    """Bring up the Prefect page, the MLflow page and a worker; ctrl-c stops them."""
    from tasks.ui import run_ui, stop_ui

    if stop:
        print("stopped" if stop_ui() else "nothing was running")
    else:
        run_ui(prefect_port, mlflow_port)


@app.command()
def doctor(home_folder: HomeOption = None) -> None:
    """Say what this machine has, and try what a run needs."""
    from tasks.doctor import examine, render

    checks = examine()
    render(checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command()
def prune(
    days: Annotated[
        float, typer.Option("--keep-days", min=0, help="Keep what runs of so many days use.")
    ] = 14.0,
    yes: Annotated[
        bool, typer.Option("--yes", help="Really remove; without it, only say what would go.")
    ] = False,
    home_folder: HomeOption = None,
) -> None:
    """Free space: stored data that no recent run uses, and checkpoints of finished runs; never a model."""
    from tasks import prune as pruning

    removable = pruning.plan_prune(days)
    pruning.render(removable)
    if yes:
        pruning.prune(removable)


@app.command()
def recipes() -> None:
    """List the recipes that come along."""
    from tasks.recipe import headline, list_recipes

    for path in list_recipes():
        print(f"{path.stem:<14} {headline(path)}")
