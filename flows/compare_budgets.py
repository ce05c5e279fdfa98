"""Several budgets, one whole run each: the curve of test score against budget, and how well it was foreseen."""

from functools import partial
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.pipeline import train_best_model
from tasks.alive import announce
from tasks.budgets import in_order, measure, open_parent
from tasks.clean import Cleaning
from tasks.clock import process_start
from tasks.cluster import Compute
from tasks.form import Seed, explained
from tasks.frontier import Frontier, compare
from tasks.library import PythonStdlib
from tasks.outbox import settle
from tasks.recipe import check_budgets, check_together
from tasks.register import Promotion
from tasks.sides import Validation
from tasks.source import Source
from tasks.spelling import BytePairs, Tokenizer
from tasks.study import Search
from tasks.telemetry import publish
from training.blueprint import Learning
from training.budget import Budget
from training.model import Model, Scratch
from training.objectives import CausalLanguageModel, Objective


@flow(
    name="compare-budgets",
    flow_run_name="budgets-{promotion.name}",
    on_running=[announce],
    on_completion=[settle],
    on_failure=[settle],
    on_crashed=[settle],
    on_cancellation=[settle],
)
@explained
def compare_budgets(
    budgets: Annotated[
        tuple[Budget, ...], Field(description="Two or more, each for a whole run of its own.")
    ] = ("1m", "2m", "4m"),
    seeds: Annotated[int, Field(ge=1, le=20, description="Runs of each budget.")] = 1,
    seed: Seed = 0,
    source: Source = PythonStdlib(),
    cleaning: Cleaning = Cleaning(),
    tokenizer: Tokenizer = BytePairs(),
    objective: Objective = CausalLanguageModel(),
    model: Model = Scratch(),
    learning: Learning = Learning(),
    search: Search = Search(),
    validation: Validation = Validation(),
    compute: Compute = Compute(),
    promotion: Promotion = Promotion(),
) -> Frontier:
    """Trains the best model for each budget, the smallest first, and draws what they led to."""
    check_budgets(budgets)
    check_together(source, objective, model, learning, compute, search)
    recipe = (source, cleaning, tokenizer, objective, model, learning, search, validation, compute, promotion)
    started = process_start()
    open_parent()
    runs = [
        measure(budget, number, partial(train_best_model, budget, number, *recipe))
        for budget, number in in_order(budgets, seed, seeds)
    ]
    return publish(compare(runs, objective.unit, started))
