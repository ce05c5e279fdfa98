"""From a masked model of ours to a classifier, through the stages, without a cluster."""

from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tasks.artifacts import InputError, Tokens
from tasks.clean import Cleaning, clean_corpus
from tasks.cluster import Compute
from tasks.library import PythonFunctions
from tasks.memory import depths_that_fit
from tasks.recipe import check_together
from tasks.settle import DEPTHS, settle
from tasks.sides import Validation
from tasks.spelling import BytePairs
from tasks.split import split_corpus
from tasks.study import Search
from tasks.tokens import tokenize_corpus
from tests.test_tokens import CLOCK
from training.blueprint import Blueprint, Learning
from training.budget import TokenCount
from training.model import Model, Pretrained, Scratch
from training.objectives import MaskedLanguageModel, Objective, SequenceClassification
from training.worker import Assignment, Outcome, carry_out

SOURCE = PythonFunctions(packages=3)


def tokens_for(objective: Objective, model: Model) -> Tokens:
    corpus = clean_corpus.fn(SOURCE, Cleaning())
    splits = split_corpus.fn(corpus, Validation(test_share=0.3, folds=2), objective)
    return tokenize_corpus.fn(splits, BytePairs(vocabulary=512), objective, model, CLOCK)


def base(objective: Objective, model: Model, tokens: Tokens, learning: Learning) -> Blueprint:
    learning, _ = settle(learning, objective, model, tokens, 1, False, 60.0)
    return Blueprint(
        model=model,
        objective=objective,
        learning=learning,
        vocabulary=tokens.vocabulary,
        start_token=tokens.start_token,
        mask_token=tokens.mask_token,
        labels=tokens.labels,
        data=tokens.key,
    )


def train(blueprint: Blueprint, tokens: Tokens, folder: Path) -> Outcome:
    clock = TokenCount(6 * (blueprint.learning.batch_tokens or 0))
    return carry_out(Assignment(folder, blueprint, tokens.folder, clock, watched_tokens=500, keep_model=True))


def test_a_masked_model_becomes_a_classifier(fresh_home: Path, tmp_path: Path) -> None:
    small = Learning(context=64, batch_tokens=256, precision="fp32")
    masked, scratch = MaskedLanguageModel(), Scratch(family="modernbert", depth=1)
    tokens = tokens_for(masked, scratch)
    train(base(masked, scratch, tokens, small), tokens, tmp_path / "masked")

    objective, model = SequenceClassification(), Pretrained(name=str(tmp_path / "masked" / "model"))
    check_together(SOURCE, objective, model, Learning(), Compute(workers=1), Search())
    labelled = tokens_for(objective, model)
    assert (labelled.vocabulary, labelled.start_token) == (tokens.vocabulary, tokens.start_token)
    assert labelled.changed_share == 0
    open_context = Learning(batch_tokens=256, precision="fp32")
    blueprint = base(objective, model, labelled, open_context)
    assert blueprint.learning.context == 64  # all that the checkpoint knows
    assert depths_that_fit(blueprint, DEPTHS, "cpu", 1e9) == DEPTHS
    with pytest.raises(InputError, match="knows 64 positions"):
        longer = base(objective, model, labelled, Learning(context=128))
        depths_that_fit(longer, DEPTHS, "cpu", 1e9)

    outcome = train(blueprint, labelled, tmp_path / "classifier")
    assert outcome.summary.validation_bits is not None
    folder = tmp_path / "classifier" / "model"
    finished = AutoModelForSequenceClassification.from_pretrained(folder)
    assert tuple(finished.config.id2label.values()) == labelled.labels
    batch = AutoTokenizer.from_pretrained(folder)(["def f(): ...", "x"], padding=True, return_tensors="pt")
    assert finished(**batch).logits.isfinite().all()
