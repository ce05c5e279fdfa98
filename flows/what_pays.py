"""What pays here: the recipe against itself without each of its techniques, at equal time."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.ablate import check_comparison, compare_techniques
from tasks.alive import announce
from tasks.augment import with_copies
from tasks.clean import Cleaning, clean_corpus
from tasks.clock import start_clock
from tasks.cluster import Compute
from tasks.form import Seed, explained
from tasks.library import PythonStdlib
from tasks.outbox import settle
from tasks.plan import plan_budget
from tasks.recipe import check_together
from tasks.recleaned import clean_less
from tasks.register import Promotion
from tasks.sides import Validation
from tasks.source import Source
from tasks.spelling import BytePairs, Tokenizer
from tasks.split import split_corpus
from tasks.study import Search
from tasks.techniques import all_augmentation
from tasks.telemetry import publish
from tasks.tokens import tokenize_corpus
from tasks.worth import WhatPays
from training.blueprint import Learning
from training.budget import Budget
from training.model import Model, Scratch
from training.objectives import CausalLanguageModel, Objective


@flow(
    name="what-pays",
    flow_run_name="what-pays-{budget}-{promotion.name}",
    on_running=[announce],
    on_completion=[settle],
    on_failure=[settle],
    on_crashed=[settle],
    on_cancellation=[settle],
)
@explained
def what_pays(
    budget: Budget = "30m",
    seeds: Annotated[
        int,
        Field(ge=2, le=20, description="Trainings of each variant, at most; more find smaller differences."),
    ] = 3,
    also: Annotated[
        tuple[str, ...],
        Field(description="Settings to add in turn, such as learning.average=0.1."),
    ] = (),
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
) -> WhatPays:
    """Takes out each technique of the recipe in turn, and says what it was worth; nothing is searched."""
    check_together(source, objective, model, learning, compute, search)
    check_comparison(source, cleaning, objective, model, learning, compute, also, budget)
    clock = start_clock(budget, compute)
    corpus = publish(clean_corpus(source, cleaning))
    splits = publish(split_corpus(corpus, validation, objective))
    plain = tokenize_corpus(splits, tokenizer, objective, model, clock)
    augmentation = all_augmentation(model, objective, learning, also)
    recleaned = clean_less(plain, source, cleaning, validation, objective, augmentation, compute.device_type)
    tokens = publish(with_copies(plain, augmentation, compute.device_type))
    plan = publish(
        plan_budget(clock, tokens, model, learning, objective, compute, Search(share=0), promotion.name, seed)
    )
    return publish(compare_techniques(plan, tokens, recleaned, also, seeds))
