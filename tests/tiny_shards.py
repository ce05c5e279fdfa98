"""Tiny real shards: bytes of real text as tokens, so that training tests need no tokenizer stage."""

import json
from pathlib import Path

import numpy as np

from training.blueprint import Blueprint, Learning
from training.data import Shards
from training.model import Scratch

START, MASK = 256, 257
LABELS = ("function", "method")


def write_shards(folder: Path, texts: list[str], folds: int = 3) -> Shards:
    """Every tenth document validates, every tenth tests, the rest train in `folds` folds.

    A document's label is whether it speaks of `self`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sides: dict[str, list[tuple[str, int]]] = {"train": [], "validation": [], "test": []}
    for number, text in enumerate(texts):
        side = {0: "test", 1: "validation"}.get(number % 10, "train")
        sides[side].append((text, number % folds))
    for side, documents in sides.items():
        ids: list[int] = []
        rows = []
        for text, fold in documents:
            data = text.encode()
            rows.append((len(ids), len(data) + 1, len(data), fold, int("self" in text)))
            ids += [START, *data]
        np.array(ids, dtype=np.uint16).tofile(folder / f"{side}.bin")
        np.save(folder / f"{side}.npy", np.array(rows, dtype=np.int64))
    header = {
        "dtype": "uint16",
        "vocabulary": 258,
        "start_token": START,
        "mask_token": MASK,
        "labels": list(LABELS),
    }
    (folder / "shards.json").write_text(json.dumps(header))
    return Shards(folder)


def tiny_blueprint(**learning: object) -> Blueprint:
    """One layer of 64, context 32, four rows a step."""
    settled = Learning.model_validate({"context": 32, "batch_tokens": 128, "precision": "fp32", **learning})
    return Blueprint(
        model=Scratch(family="nanochat", depth=1),  # which packs by documents and can be cut by tensors
        learning=settled,
        vocabulary=258,
        start_token=START,
        mask_token=MASK,
        labels=LABELS,
    )
