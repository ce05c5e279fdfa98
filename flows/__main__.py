"""The `shoestring` command: it parses, and calls what `tasks/` holds."""

import gc
import json
import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer

from tasks import commands, home
from tasks.options import (
    AlsoOption,
    BudgetOption,
    BudgetsOption,
    HomeOption,
    JsonOption,
    LongBudgetOption,
    RecipeArgument,
    ResumeOption,
    RetrainBudgetOption,
    RunsOption,
    SeedOption,
    SeedsOption,
    SeenOption,
    SetOption,
    mistakes_told,
)

if TYPE_CHECKING:
    from prefect import Flow

app = typer.Typer(
    name="shoestring",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train the best language model your budget buys.\n\n"
    "Start with `shoestring run`: five minutes later you have a model, and the evidence for it. "
    "Then `shoestring generate 'def fibonacci('`.",
)


@app.command()
def run(
    recipe: RecipeArgument = "python-code",
    budget: BudgetOption = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    home_folder: HomeOption = None,
    resume: ResumeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model: clean, tokenize, plan, search, cross-validate, train, evaluate, register.

    Examples: `shoestring run`, `shoestring run my-text --set source.paths=notes/ --budget 1h`,
    `shoestring run --resume last`.
    """
    from tasks import launch, outcome

    request = None if resume else launch.read_request(recipe, budget, seed, settings or [])
    outcome.tell(
        outcome.summary(launch.execute(_flow("pipeline:train_best_model"), request, resume)), as_json
    )


@app.command()
def finish(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="A stopped run, by its id or `last`.")
    ] = "last",
    home_folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge and register the best model that a stopped or killed run has left, in seconds.

    What has not been trained by then is given up; `shoestring run --resume` would go on with it.
    """
    from tasks import launch, outcome
    from tasks.finish import refuse_running

    stopped = launch.find_run(run_id)
    refuse_running(stopped)
    launch.execute(_flow("finish:finish_run"), {"run_id": stopped}, None, trains=False)
    outcome.tell(outcome.summary(stopped), as_json)


@app.command()
def plan(
    recipe: RecipeArgument = "python-code",
    budget: BudgetOption = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    home_folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do, and for how long, without training.

    It cleans, tokenizes and measures, all of which the run itself then finds done.
    """
    from tasks import launch, outcome

    request = launch.read_request(recipe, budget, seed, settings or [])
    outcome.print_plan(launch.execute(_flow("preview:preview_plan"), request, None), as_json)


@app.command()
def ablate(
    recipe: RecipeArgument = "python-code",
    budget: LongBudgetOption = None,
    seeds: SeedsOption = 3,
    also: AlsoOption = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    home_folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which techniques pay on your data: the recipe against itself without each, at equal time.

    Every technique in use (optimizer, schedule, precision, averages, dropout, filters, ...) is taken out in turn.
    The table has what each one saves, with an interval over seeds, and the speed without it, which says why.
    Short trainings may want other things than long ones: give as much time as you can spare.

    Examples: `shoestring ablate --budget 30m`, `shoestring ablate my-text --set source.paths=notes/ --seeds 5`,
    `shoestring ablate --also learning.average=0.1 --also learning.dropout=0.1`.
    """
    from tasks import launch

    request = launch.read_request(recipe, budget, seed, settings or [])
    found = launch.execute(
        _flow("what_pays:what_pays"), {**request, "seeds": seeds, "also": also or []}, None
    )
    from tasks.worth import tell

    tell(found, as_json)


@app.command()
def frontier(
    recipe: RecipeArgument = "python-code",
    budgets: BudgetsOption = "1m,2m,4m",
    seeds: RunsOption = 1,
    seed: SeedOption = None,
    settings: SetOption = None,
    home_folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train once for each of several budgets, and show what more time buys, and how well that was foreseen.

    Every budget is a whole run, the smallest first, so the command takes their sum. The table holds each test score
    against what the run's own plan had foreseen. A budget that fails is told; exit code 1 where all do.

    Examples: `shoestring frontier --budgets 1m,2m,4m`, `shoestring frontier classify --budgets 5m,20m --seeds 2`.
    """
    from tasks import launch
    from tasks.recipe import check_budgets

    check_budgets(wanted := [budget.strip() for budget in budgets.split(",")])
    request = launch.read_request(recipe, None, seed, settings or [])
    request = {**request, "budgets": wanted, "seeds": seeds}
    request.pop("budget", None)
    found = launch.execute(_flow("compare_budgets:compare_budgets"), request, None)
    from tasks.frontier import tell

    if not tell(found, as_json):
        raise typer.Exit(1)


@app.command()
def retrain(
    recipe: RecipeArgument = "python-code",
    budget: RetrainBudgetOption = None,
    seen: SeenOption = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    home_folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train again where there is reason to, and say so where there is none: then nothing is trained.

    A reason is a document that the champion was not trained on, or drift: lengths, or how well the champion
    foretells what it is given now, differ from what it was judged on, beyond chance. Then one budget pays for
    two trainings, on from the champion and anew, and the gate decides which of the three is best.

    Examples: `shoestring retrain my-text --set source.paths=notes/ --budget 1h`,
    `shoestring retrain my-text --set source.paths=notes/ --seen inputs/`,
    `shoestring retrain --set retraining.continued_share=1 --set retraining.least_new_documents=100`.
    """
    from tasks import launch

    inputs = ["seen.kind=files", f"seen.paths={json.dumps(seen)}"] if seen else []
    request = launch.read_request(recipe, budget, seed, [*inputs, *(settings or [])])
    found = launch.execute(_flow("retrain:retrain_where_due"), request, None, trains=False)
    from tasks.retrain import tell

    tell(found, as_json)


@app.command("verify-resume")
def verify_resume(
    recipe: RecipeArgument = "python-code",
    kills: Annotated[int, typer.Option(min=1, max=100, help="How often in a row to kill a training.")] = 3,
    steps: Annotated[int, typer.Option(min=20, max=100_000, help="Steps of each training.")] = 60,
    seed: SeedOption = None,
    settings: SetOption = None,
    home_folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that a training of this recipe can be killed at any moment without changing its result by a bit.

    Small trainings are killed at random steps, resumed, and compared with one left in peace. It takes
    about a minute; exit code 1 where it does not hold.
    """
    from tasks import launch

    request = launch.read_request(recipe, None, seed, settings or [])
    run_id = launch.execute(_flow("preview:preview_plan"), request, None)
    from tasks.verify import verify_resume

    if not verify_resume(run_id, steps, kills, as_json):
        raise typer.Exit(1)


@app.command()
def reproduce(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run, by its name or id in MLflow, or `last`.")
    ] = "last",
    home_folder: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do a finished run's training again, step by step as it went, and show that it ends with the same weights.

    All that it takes is in MLflow: settings, seed, data digest, and the journal of how far each step had come, which
    stands in for the clock. What differs from then (machine, packages, code, data, workers, settings) is said before
    it begins and after it ended. It takes about as long as the run's final training; exit code 1 where the weights
    are others.

    Examples: `shoestring reproduce`, `shoestring reproduce 5m-python-code-1a2b`, `shoestring reproduce my-text/3`.
    """
    home.quiet()
    from tasks import launch
    from tasks.reproduce import request_of, tell

    if not tell(launch.execute(_flow("reproduce:reproduce_run"), request_of(run), None), as_json):
        raise typer.Exit(1)


app.add_typer(commands.app)


def _flow(place: str) -> "Callable[[], Flow[..., Any]]":
    """Loads a flow, given as `file:name` below flows/, when it is called: that imports all there is."""
    file, _, name = place.partition(":")
    return lambda: getattr(import_module(f"flows.{file}"), name)


def main() -> None:
    """Runs the command; what the user can mend ends in one clear message and exit code 2."""
    os.environ[home.STARTED_VARIABLE] = str(psutil.Process().create_time())
    try:
        with mistakes_told():
            app()
    finally:
        gc.freeze()  # or Python looks through all modules at exit: 2 to 4 s for nothing


if __name__ == "__main__":
    main()
