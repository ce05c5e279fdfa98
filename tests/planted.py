"""A corpus with planted near-duplicates: groups of copies that differ in numbers alone, with nothing in common."""

import json
import random
import string
from pathlib import Path
from types import SimpleNamespace

from transformers import AutoTokenizer

from tasks.artifacts import Tokens
from tasks.clean import Cleaning, clean_corpus
from tasks.sides import Validation
from tasks.source import Files
from tasks.spelling import Bytes
from tasks.split import split_corpus
from tasks.tokens import tokenize_corpus
from training.blueprint import Blueprint, Learning
from training.data import Slice
from training.model import Scratch
from training.objectives import Objective

WORDS = 15
BUDGET = SimpleNamespace(budget_seconds=60.0, like_seconds=60.0)


def planted_tokens(
    folder: Path, objective: Objective, folds: int = 4, groups: int = 40, copies: int = 10
) -> Tokens:
    """Through the real stages: random words, a random label, and a number that makes each copy another text.

    The first word of a text names its group. Needs a home of its own.
    """
    dice = random.Random(0)
    rows = []
    for group in range(groups):
        words = ["".join(dice.choices(string.ascii_lowercase, k=dice.randint(3, 8))) for _ in range(WORDS)]
        label = dice.choice("ab")
        texts = (f"{' '.join(words)} {group * copies + copy}" for copy in range(copies))
        rows += [{"text": text, "kind": label} for text in texts]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Files(paths=(str(folder / "rows.jsonl"),), label_column="kind")
    corpus = clean_corpus.fn(source, Cleaning(preset="none", duplicates="equal"))
    validation = Validation(test_share=0.01, validation_share=0.01, folds=folds)  # type: ignore[arg-type]
    splits = split_corpus.fn(corpus, validation, objective)
    return tokenize_corpus.fn(splits, Bytes(), objective, Scratch(), BUDGET)


def groups_of(tokens: Tokens, slice_: Slice) -> list[str]:
    """The group of each document."""
    tokenizer = AutoTokenizer.from_pretrained(tokens.folder / "tokenizer")
    return [tokenizer.decode(ids[1:]).split()[0] for ids in slice_.texts().documents]


def planted_blueprint(tokens: Tokens, objective: Objective, **learning: object) -> Blueprint:
    """One layer of 64, context 32, 16 rows a step."""
    family = "nanochat" if objective.head == "causal" else "modernbert"
    settled = {"context": 32, "batch_tokens": 512, "precision": "fp32", **learning}
    return Blueprint(
        model=Scratch(depth=1, family=family),
        objective=objective,
        learning=Learning.model_validate(settled),
        vocabulary=tokens.vocabulary,
        start_token=tokens.start_token,
        mask_token=tokens.mask_token,
        labels=tokens.labels,
    )
