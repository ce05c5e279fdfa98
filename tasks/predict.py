"""Asking a model: which label a text has, or what stands in a gap."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.artifacts import InputError
from tasks.generate import context_of, load, start_token
from tasks.heads import USES, head_of
from tasks.scores import Ints, encode, labels_of
from training.metrics import class_log_probabilities
from training.model import autocast

MASK = "[MASK]"
MASKS = (MASK, "<mask>", "<|mask|>")  # as people write a gap; a tokenizer's own spelling counts too
MOST = 5  # candidates that are shown
AT_ONCE = 256  # texts read from a file before they are answered

Ranked = list[tuple[str, float]]  # likeliest first


def predictions(model_folder: Path, texts: Iterable[str], most: int = MOST) -> Iterator[dict[str, Any]]:
    """What the model says of each text, as it comes: `label` or `text`, and the candidates behind it.

    Of a classifier: text, label, probability and `labels`, the likeliest with their probabilities.
    Of a masked model: text (filled), and `gaps`, a list for each gap. Raises InputError for a model
    that writes instead, and for a text without a gap.
    """
    model, tokenizer = load(model_folder)
    head = head_of(model.config)
    if head == "causal":
        raise InputError(
            f"the model is {USES[head].article_noun}, which gives no labels and fills no gaps: "
            f"use `shoestring {USES[head].command}`"
        )
    for batch in _batches(texts, AT_ONCE):
        if head == "masked":
            yield from (fill_text(model, tokenizer, text, most) for text in batch)
            continue
        for text, ranked in zip(batch, classify(model, tokenizer, batch), strict=True):
            label, probability = ranked[0]
            yield {"text": text, "label": label, "probability": probability, "labels": ranked[:most]}


def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[Ranked]:
    """Every label with its probability, likeliest first, for each text."""
    chances = np.exp(
        class_log_probabilities(
            model, encode(tokenizer, texts), context_of(model, tokenizer), autocast(model.device)
        )
    )
    names = labels_of(model)
    return [
        [(names[number], float(row[number])) for number in np.argsort(-row, kind="stable")] for row in chances
    ]


def fill_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, most: int = MOST
) -> dict[str, Any]:
    """The text with its gaps filled by the likeliest tokens, and the candidates of each gap.

    Raises InputError where the text has no gap, or is longer than the model can see at once.
    """
    ids = with_gaps(tokenizer, text)
    context = context_of(model, tokenizer)
    if len(ids) > context:
        raise InputError(
            f"the text has {len(ids):,} tokens, and the model sees {context:,} at once: shorten it"
        )
    tokens, ranked = candidates(model, tokenizer, ids, most)
    filled = ids.copy()
    filled[ids == tokenizer.mask_token_id] = tokens[:, 0]
    return {"text": tokenizer.decode(filled[1:]), "gaps": ranked}


def with_gaps(tokenizer: PreTrainedTokenizerBase, text: str) -> Ints:
    """int64 [tokens]: the text's ids after the start token, with the mask's id at each gap."""
    for spelling in MASKS:
        text = text.replace(spelling, tokenizer.mask_token)
    pieces = text.split(tokenizer.mask_token)
    if len(pieces) == 1:
        raise InputError(f"there is no gap to fill in {text[:40]!r}: write {MASK} where a word is missing")
    ids = [start_token(tokenizer)]
    for number, piece in enumerate(pieces):
        ids += [tokenizer.mask_token_id] * (number > 0)
        ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True).input_ids
    return np.array(ids, dtype=np.int64)


@torch.inference_mode()
def candidates(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Ints, most: int = MOST
) -> tuple[Ints, list[Ranked]]:
    """The likeliest tokens for each mask in `ids`: int64 [gaps, most], and the same as text with probabilities.

    Special tokens are never among them.
    """
    inputs_1T = torch.from_numpy(ids)[None].to(model.device)
    with autocast(model.device)():
        logits_TV = (
            model(input_ids=inputs_1T, attention_mask=torch.ones_like(inputs_1T)).logits[0].float().cpu()
        )
    logits_GV = logits_TV[torch.from_numpy(ids == tokenizer.mask_token_id)]
    logits_GV[:, tokenizer.all_special_ids] = -torch.inf
    chances, tokens = logits_GV.softmax(-1).topk(most)
    ranked = [
        [(tokenizer.decode([token]), chance) for token, chance in zip(row, of_row, strict=True)]
        for row, of_row in zip(tokens.tolist(), chances.tolist(), strict=True)
    ]
    return tokens.numpy(), ranked


def answer(model_folder: Path, text: str | None, file: Path | None, as_json: bool) -> None:
    """Prints what the model says of one text, or of every line of a file or of what is piped in.

    For a person: a label with its probability and the next likeliest, or the filled text. For
    lines: tab-separated, one line each. As JSON: one object a line. Raises InputError where there
    is no text.
    """
    if text is not None:
        found = next(predictions(model_folder, [text]))
        print(json.dumps(found) if as_json else describe(found))
        return
    if file is None and sys.stdin.isatty():
        raise InputError(
            "there is no text: write it behind `shoestring predict`, name a --file, or pipe lines in"
        )
    try:
        lines = sys.stdin if file is None else file.open(encoding="utf-8")
    except OSError as problem:
        raise InputError(f"{file} cannot be read ({problem.strerror})") from None
    with lines:
        for found in predictions(model_folder, (line.rstrip("\n") for line in lines)):
            print(json.dumps(found) if as_json else tab_separated(found), flush=True)


def describe(found: dict[str, Any]) -> str:
    """A prediction for a person."""
    if "labels" in found:
        return "\n".join(f"{chance:6.1%}  {label}" for label, chance in found["labels"])
    gaps = [", ".join(f"{word!r} {chance:.0%}" for word, chance in gap) for gap in found["gaps"]]
    return "\n".join([found["text"], *(f"  gap {number}: {gap}" for number, gap in enumerate(gaps, start=1))])


def tab_separated(found: dict[str, Any]) -> str:
    """Label, probability and text; or the filled text and the words that were put in."""
    fields = (
        [found["label"], f"{found['probability']:.4f}", found["text"]]
        if "labels" in found
        else [found["text"], " ".join(f"{gap[0][0].strip()}={gap[0][1]:.4f}" for gap in found["gaps"])]
    )
    return "\t".join(" ".join(field.split("\t")) for field in fields)


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
