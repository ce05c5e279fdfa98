"""What a run would do: the same stages up to the plan, and no training."""

from prefect import flow

from tasks.alive import announce
from tasks.augment import with_copies
from tasks.clean import Cleaning, clean_corpus
from tasks.clock import start_clock
from tasks.cluster import Compute
from tasks.form import Seed, explained
from tasks.library import PythonStdlib
from tasks.outbox import settle
from tasks.plan import plan_budget
from tasks.planned import Plan
from tasks.recipe import check_together
from tasks.register import Promotion
from tasks.sides import Validation
from tasks.source import Source
from tasks.spelling import BytePairs, Tokenizer
from tasks.split import split_corpus
from tasks.study import Search
from tasks.telemetry import publish
from tasks.tokens import tokenize_corpus
from training.blueprint import Learning
from training.budget import Budget
from training.model import Model, Scratch
from training.objectives import CausalLanguageModel, Objective


@flow(
    name="preview-plan",
    flow_run_name="plan-{budget}-{promotion.name}",
    on_running=[announce],
    on_completion=[settle],
    on_failure=[settle],
    on_crashed=[settle],
    on_cancellation=[settle],
)
@explained
def preview_plan(
    budget: Budget = "5m",
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
) -> Plan:
    """Cleans, tokenizes and measures, and says what the budget would be spent on."""
    check_together(source, objective, model, learning, compute, search)
    clock = start_clock(budget, compute)
    corpus = publish(clean_corpus(source, cleaning))
    splits = publish(split_corpus(corpus, validation, objective))
    tokens = tokenize_corpus(splits, tokenizer, objective, model, clock)
    tokens = publish(with_copies(tokens, learning.augmentation, compute.device_type))
    return publish(
        plan_budget(clock, tokens, model, learning, objective, compute, search, promotion.name, seed)
    )
