"""The commands that run no flow: on text, on models, and on the home folder."""

from pathlib import Path
from typing import Annotated

import typer

from tasks import home
from tasks.options import (
    ColumnOption,
    EachJsonOption,
    EachOption,
    FilesOption,
    HomeOption,
    JsonOption,
    ModelOption,
    NameArgument,
    OutOption,
    PipedOption,
    ReasonOption,
    SetOption,
)

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
    prompt: Annotated[
        str | None, typer.Argument(help="The text to go on with. Without: one a line, from a pipe.")
    ] = None,
    model: ModelOption = None,
    tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Tokens to write at most.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0, max=5, help="0 always takes the likeliest token; 1 draws as learned.")
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option(min=0, help="Draw among so many likeliest tokens; 0: among all.")
    ] = 50,
    seed: Annotated[
        int, typer.Option(min=0, help="The same seed writes the same text; of many, the n-th takes seed + n.")
    ] = 0,
    files: FilesOption = None,
    column: ColumnOption = "text",
    each: EachOption = None,
    piped: PipedOption = "txt",
    as_json: EachJsonOption = False,
    out: OutOption = None,
    home_folder: HomeOption = None,
) -> None:
    """Write on from a prompt, or from many, with a trained model.

    Examples: `shoestring generate 'def main'`, `shoestring generate --file prompts.txt --json`,
    `shoestring generate --file prompts.csv --column prompt -o written.parquet`.
    """
    from tasks.generate import resolve_model
    from tasks.told import Request
    from tasks.writing import Wish, answer

    request = Request(tuple(files or ()), column, each, piped, as_json, out)
    if not answer(resolve_model(model), prompt, Wish(tokens, temperature, top_k, seed), request):
        raise typer.Exit(1)


@app.command()
def predict(
    text: Annotated[
        str | None,
        typer.Argument(help="A text to label, or one with a [MASK] to fill. Without: lines from a pipe."),
    ] = None,
    model: ModelOption = None,
    files: FilesOption = None,
    column: ColumnOption = "text",
    each: EachOption = None,
    piped: PipedOption = "txt",
    as_json: EachJsonOption = False,
    out: OutOption = None,
    home_folder: HomeOption = None,
) -> None:
    """Say texts' labels, or fill their gaps, with a trained classifier or masked model.

    Examples: `shoestring predict 'def parse(text): ...'`, `shoestring predict 'for [MASK] in range(3):'`,
    `shoestring predict --file texts.txt > labels.tsv`, `shoestring predict --file mails/ -o labels.parquet`.
    """
    from tasks.generate import resolve_model
    from tasks.predict import answer
    from tasks.told import Request

    request = Request(tuple(files or ()), column, each, piped, as_json, out)
    if not answer(resolve_model(model), text, request):
        raise typer.Exit(1)


@app.command()
def serve(
    model: Annotated[
        str | None,
        typer.Argument(help="name@alias, name/version or a folder. Default: the newest champion."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 5001, or any free one.", show_default=False)
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Whom to listen to: an address of this machine, or 0.0.0.0. Others are asked for SHOESTRING_LOGIN."
        ),
    ] = "127.0.0.1",
    characters: Annotated[int, typer.Option("--most-characters", min=1, help="Of a text.")] = 10_000,
    texts: Annotated[int, typer.Option("--most-texts", min=1, help="Of a request.")] = 64,
    tokens: Annotated[int, typer.Option("--most-tokens", min=1, help="Written for each text.")] = 256,
    body_bytes: Annotated[int, typer.Option("--most-body-bytes", min=100, help="Of a request.")] = 1_000_000,
    at_once: Annotated[int, typer.Option("--most-at-once", min=1, help="Requests in work.")] = 8,
    block_list: Annotated[
        Path | None,
        typer.Option(help="A file with a word or phrase a line, which no text may hold.", show_default=False),
    ] = None,
    mask: Annotated[bool, typer.Option("--mask/--no-mask", help="Hide personal data from the model.")] = True,
    home_folder: HomeOption = None,
) -> None:
    """Answer requests over HTTP with a model of any kind, on this machine; ctrl-c stops.

    Examples: `shoestring serve`, `shoestring serve my-text@champion --port 8000 --block-list words.txt`; then
    `curl localhost:8000/invocations -H 'Content-Type: application/json' -d '{"inputs": ["a text"]}'`.
    """
    from tasks.exposure import exposed

    exposure = exposed(host)
    from tasks.door import Limits
    from tasks.serve import serve

    limits = Limits(
        most_characters=characters,
        most_texts=texts,
        most_tokens=tokens,
        most_body_bytes=body_bytes,
        most_at_once=at_once,
        block_list=block_list,
        mask_personal_data=mask,
    )
    serve(model, host, port, limits, exposure)


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
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUNS]...",
            help="Names or ids of runs, or how these begin, which may stand for several; `last`; or registered"
            " versions, as name/version. Without any: the latest five.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The picture, a .png. Default: comparisons/ in the home.", show_default=False
        ),
    ] = None,
    home_folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which finished runs are better than which, and which only look it.

    A table has each run's budget, size, tokens, seconds and test score, and another a verdict on every pair: over the
    test documents that both were judged on, with the luck of trainings counted in, corrected for the number of pairs.
    Runs that were judged on other documents, or in other units, are said not to be comparable.

    Examples: `shoestring compare`, `shoestring compare 5m-python-code-1a2b 20m-python-code`,
    `shoestring compare last my-text/3 --out runs.png`.
    """
    from tasks.compare import show

    show(runs or [], out, as_json)


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
    expose: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Let other machines in, at an address of this one or 0.0.0.0; all pages ask for SHOESTRING_LOGIN.",
            show_default=False,
        ),
    ] = None,
    home_folder: HomeOption = None,
) -> None:
    """Bring up the Prefect page, the MLflow page and a worker; ctrl-c stops them."""
    from tasks.exposure import exposed
    from tasks.ui import run_ui, stop_ui

    if stop:
        print("stopped" if stop_ui() else "nothing was running")
    else:
        run_ui(prefect_port, mlflow_port, exposed(expose) if expose else None)


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
