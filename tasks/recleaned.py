"""The same text cleaned less: what a comparison trains on to tell what a step of the cleaning is worth.

A document's side is its own hash, so the held-out documents are the same, but for what cleaning takes out:
copies would count twice in a score, and filtered documents would be scored too. So the recipe's own
validation and test shards are kept, and its tokenizer; only the train shards are others.
"""

import shutil
import sys
from typing import NamedTuple

import pyarrow.parquet as pq
from prefect import task

from tasks.artifacts import Splits, Tokens
from tasks.augment import with_copies
from tasks.clean import Cleaning, clean_corpus
from tasks.packing import Packer, Texts, pack
from tasks.sides import Validation
from tasks.source import Source
from tasks.spelling import Spelling
from tasks.split import split_corpus
from tasks.store import code_key, content_key, stored, storing
from tasks.techniques import CLEANINGS
from tasks.telemetry import stage
from training.augmentation import Augmentation
from training.data import Shards, Slice
from training.model import Pretrained
from training.objectives import Objective

LEAST_CHANGE = 0.002  # of the train split's bytes; what changes less, no training of minutes shows. By eye


class Recleaned(NamedTuple):
    """The tokens to train on without each step of the cleaning, and why others are left out."""

    tokens: dict[str, Tokens]
    left_out: dict[str, str]


def objection(own: Splits, other: Splits, labels: tuple[str, ...]) -> str | None:
    """Why a training on the other splits would say nothing, or not compare; None where it would."""
    more = abs(other.bytes["train"] - own.bytes["train"]) / max(1, own.bytes["train"])
    if not more:
        return "changes nothing in this text"
    if more < LEAST_CHANGE:
        documents = abs(other.documents["train"] - own.documents["train"])
        return f"changes {documents} of {own.documents['train']:,} train documents, which is too little to be seen"
    if labels and Texts.of(other).labels() != labels:
        return "without it there are other labels"
    held_out = set(_ids(own, "validation")) | set(_ids(own, "test"))
    if held_out & set(_ids(other, "train")):
        return "without it, held-out documents would be trained on"
    return None


def _ids(splits: Splits, side: str) -> list[str]:
    table = pq.read_table(splits.folder / "assignment.parquet", columns=["id", "split"])
    pairs = zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True)
    return [name for name, there in pairs if there == side]


def packed_alike(tokens: Tokens, other: Splits, objective: Objective) -> Tokens:
    """The other splits' train documents, in this tokenizer, beside these held-out ones; kept in the store."""
    key = content_key(tokens.key, other.key, code_key(sys.modules[__name__]))
    made = tokens.model_copy(update={"key": key, "splits": other})
    if not stored(Tokens.kind, key):
        spelt = Spelling.of_checkpoint(Pretrained(name=str(tokens.folder / "tokenizer")), objective.head)
        with storing(Tokens.kind, key) as folder:
            special = spelt.start_token, spelt.mask_token
            with Packer(folder, spelt.vocabulary, *special, tokens.labels) as packer:
                pack(Texts.of(other), spelt.encoding(packer.dtype.name), packer)
            for held_out in ("validation", "test"):
                for ending in ("bin", "npy"):
                    shutil.copy(tokens.folder / f"{held_out}.{ending}", folder)
            shutil.copytree(tokens.folder / "tokenizer", folder / "tokenizer")
    train = Slice(Shards(made.folder), "train").tokens()
    return made.model_copy(update={"tokens": tokens.tokens | {"train": train}})


@task(name="Clean the text less", task_run_name="clean the text less")
def clean_less(
    tokens: Tokens,
    source: Source,
    cleaning: Cleaning,
    validation: Validation,
    objective: Objective,
    augmentation: tuple[Augmentation, ...] = (),
    device: str = "cpu",
) -> Recleaned:
    """The tokens without each step of the cleaning that changes this text."""
    found = Recleaned({}, {})
    with stage("Clean the text less") as shown:
        for name, without in CLEANINGS:
            if (less := without(cleaning)) is None:
                continue
            splits = split_corpus(clean_corpus(source, less), validation, objective)
            why = objection(tokens.splits, splits, tokens.labels)
            if why is None:
                alike = packed_alike(tokens, splits, objective)
                found.tokens[name] = with_copies(alike, augmentation, device)
            else:
                found.left_out[name] = why
        shown.result = "; ".join(
            [
                *(
                    f"without {name} {other.tokens['train']:,} tokens to train on"
                    for name, other in found.tokens.items()
                ),
                *(f"{name} left out: {why}" for name, why in found.left_out.items()),
            ]
        )
    return found
