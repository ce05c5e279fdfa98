"""Training again where there is reason to: new documents or drift, two trainings in one budget, and the gate."""

from functools import partial

from prefect import flow

from flows.pipeline import train_best_model
from tasks.alive import announce
from tasks.budgets import measure
from tasks.clean import Cleaning, clean_corpus
from tasks.clock import process_start
from tasks.cluster import Compute
from tasks.form import Seed, explained
from tasks.library import PythonStdlib
from tasks.news import NewDocuments, Retraining, Seen, look_for_news
from tasks.outbox import settle
from tasks.recipe import check_together
from tasks.register import Promotion
from tasks.retrain import Retrained, conclude, ways
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
    name="retrain",
    flow_run_name="retrain-{budget}-{promotion.name}",
    on_running=[announce],
    on_completion=[settle],
    on_failure=[settle],
    on_crashed=[settle],
    on_cancellation=[settle],
)
@explained
def retrain_where_due(
    budget: Budget = "10m",
    retraining: Retraining = Retraining(),
    seen: Seen = NewDocuments(),
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
) -> Retrained:
    """Trains on from the champion and anew, where documents are new or what is seen has drifted."""
    check_together(source, objective, model, learning, compute, search)
    seen.check()
    started = process_start()
    corpus = publish(clean_corpus(source, cleaning))
    news = publish(look_for_news(corpus, promotion, seen, cleaning, retraining, budget))
    train = partial(
        train_best_model,
        seed=seed,
        source=source,
        cleaning=cleaning,
        tokenizer=tokenizer,
        objective=objective,
        learning=learning,
        search=search,
        validation=validation,
        compute=compute,
        promotion=promotion,
    )
    runs = {
        way.name: measure(way.budget, seed, partial(train, budget=way.budget, model=way.model))
        for way in ways(news, budget, model, retraining, started)
    }
    return publish(conclude(news, runs, started))
