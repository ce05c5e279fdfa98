"""The whole program, read from top to bottom: a budget becomes a registered model."""

from prefect import flow

from tasks.alive import announce
from tasks.artifacts import Registered
from tasks.augment import with_copies
from tasks.clean import Cleaning, clean_corpus
from tasks.clock import start_clock
from tasks.cluster import Compute
from tasks.cross_validate import cross_validate
from tasks.evaluate import evaluate_model
from tasks.form import Seed, explained
from tasks.library import PythonStdlib
from tasks.outbox import settle
from tasks.plan import plan_budget
from tasks.recipe import check_together
from tasks.register import Promotion, register_model
from tasks.search import search_blueprint
from tasks.sides import Validation
from tasks.source import Source
from tasks.spelling import BytePairs, Tokenizer
from tasks.split import split_corpus
from tasks.study import Search
from tasks.telemetry import publish
from tasks.tokens import tokenize_corpus
from tasks.train import train_final
from training.blueprint import Learning
from training.budget import Budget
from training.model import Model, Scratch
from training.objectives import CausalLanguageModel, Objective


@flow(
    name="train-best-model",
    flow_run_name="{budget}-{promotion.name}",
    on_running=[announce],
    on_completion=[settle],
    on_failure=[settle],
    on_crashed=[settle],
    on_cancellation=[settle],
)
@explained
def train_best_model(
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
) -> Registered:
    """Trains the best model that the budget buys, and registers it with the evidence."""
    check_together(source, objective, model, learning, compute, search)
    clock = start_clock(budget, compute)
    corpus = publish(clean_corpus(source, cleaning))
    splits = publish(split_corpus(corpus, validation, objective))
    tokens = tokenize_corpus(splits, tokenizer, objective, model, clock)
    tokens = publish(with_copies(tokens, learning.augmentation, compute.device_type))
    plan = publish(
        plan_budget(clock, tokens, model, learning, objective, compute, search, promotion.name, seed)
    )
    blueprint = search_blueprint(plan, tokens, search)
    folds = publish(cross_validate(blueprint, plan, tokens, validation))
    trained = publish(train_final(blueprint, plan, tokens))
    report = publish(evaluate_model(trained, folds, splits, plan.evaluation_seconds))
    return publish(register_model(trained, report, promotion))
