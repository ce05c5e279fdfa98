"""Asking a model: which label a text has, or what stands in a gap."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.artifacts import InputError
from tasks.asked import batches
from tasks.documents import Document
from tasks.generate import context_of, load, start_token
from tasks.heads import USES, head_of
from tasks.resampling import Ints
from tasks.scores import encode, labels_of
from tasks.told import Request, answer_all
from training.metrics import at_once, class_log_probabilities, rectangle
from training.model import autocast

MASK = "[MASK]"
MASKS = (MASK, "<mask>", "<|mask|>")  # as people write a gap; a tokenizer's own spelling counts too
MOST = 5  # candidates that are shown

Ranked = list[tuple[str, float]]  # likeliest first


def predictions(model_folder: Path, texts: Iterable[str], most: int = MOST) -> Iterator[dict[str, Any]]:
    """What the model says of each text, as it comes; see `answers`.

    Raises InputError for a model that writes instead, and for a text that it cannot answer.
    """
    model, tokenizer = load_predictor(model_folder)
    for batch in batches(Document("", 0, "", None, text) for text in texts):
        for found in answers(
            model, tokenizer, [text.text for text in batch if isinstance(text, Document)], most
        ):
            if "error" in found:
                raise InputError(found["error"])
            yield found


def load_predictor(model_folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model that labels texts or fills gaps, and its tokenizer. Raises InputError for one that writes."""
    model, tokenizer = load(model_folder)
    head = head_of(model.config)
    if head == "causal":
        raise InputError(
            f"the model is {USES[head].article_noun}, which gives no labels and fills no gaps: "
            f"use `shoestring {USES[head].command}`"
        )
    return model, tokenizer


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int = MOST
) -> list[dict[str, Any]]:
    """What the model says of each text, all at once: `label` or `text`, and the candidates behind it.

    Of a classifier: text, label, probability and `labels`, the likeliest with their probabilities.
    Of a masked model: text (filled), and `gaps`, a list for each gap; or text and `error`, what is
    wrong with it.
    """
    if head_of(model.config) == "masked":
        return fill_texts(model, tokenizer, texts, most)
    return [
        {"text": text, "label": ranked[0][0], "probability": ranked[0][1], "labels": ranked[:most]}
        for text, ranked in zip(texts, classify(model, tokenizer, texts), strict=True)
    ]


def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[Ranked]:
    """Every label with its probability, likeliest first, for each text."""
    if not texts:
        return []
    chances = np.exp(
        class_log_probabilities(
            model, encode(tokenizer, texts), context_of(model, tokenizer), autocast(model.device)
        )
    )
    names = labels_of(model)
    return [
        [(names[number], float(row[number])) for number in np.argsort(-row, kind="stable")] for row in chances
    ]


def fill_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int = MOST
) -> list[dict[str, Any]]:
    """The texts with their gaps filled by the likeliest tokens, and the candidates of each gap.

    A text without a gap, or longer than the model can see at once, comes back with an `error`.
    """
    context = context_of(model, tokenizer)
    found = list[dict[str, Any]]()
    known = list[tuple[int, Ints]]()
    for number, text in enumerate(texts):
        found.append({"text": text})
        try:
            ids = with_gaps(tokenizer, text)
        except InputError as problem:
            found[-1]["error"] = str(problem)
            continue
        if len(ids) > context:
            long = f"the text has {len(ids):,} tokens, and the model sees {context:,} at once: shorten it"
            found[-1]["error"] = long
        else:
            known.append((number, ids))
    ranked = candidates(model, tokenizer, [ids for _, ids in known], most)
    for (number, ids), (tokens, words) in zip(known, ranked, strict=True):
        ids[ids == tokenizer.mask_token_id] = tokens[:, 0]
        found[number] = {"text": tokenizer.decode(ids[1:]), "gaps": words}
    return found


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
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Ints], most: int = MOST
) -> list[tuple[Ints, list[Ranked]]]:
    """The likeliest tokens for each mask in each text's ids: int64 [gaps, most], and as words with probabilities.

    Special tokens are never among them.
    """
    order = sorted(enumerate(texts), key=lambda text: len(text[1]))
    found: dict[int, tuple[Ints, list[Ranked]]] = {}
    for chosen in at_once(order, model.device):
        inputs_BT = rectangle([ids for _, ids in chosen], tokenizer.pad_token_id or 0)
        mask_BT = rectangle([np.ones_like(ids) for _, ids in chosen], 0)
        with autocast(model.device)():
            seen = model(input_ids=inputs_BT.to(model.device), attention_mask=mask_BT.to(model.device))
        for (number, ids), logits_TV in zip(chosen, seen.logits, strict=True):
            gaps = torch.from_numpy(np.flatnonzero(ids == tokenizer.mask_token_id))
            logits_GV = logits_TV[gaps.to(model.device)].float().cpu()
            logits_GV[:, tokenizer.all_special_ids] = -torch.inf
            chances, tokens = logits_GV.softmax(-1).topk(most)
            ranked = [
                [(tokenizer.decode([token]), chance) for token, chance in zip(row, of_row, strict=True)]
                for row, of_row in zip(tokens.tolist(), chances.tolist(), strict=True)
            ]
            found[number] = tokens.numpy(), ranked
    return [found[number] for number in range(len(texts))]


def answer(model_folder: Path, text: str | None, request: Request) -> bool:
    """Prints or writes what the model says of one text, or of all that the request names; whether it said anything.

    For a person: a label with its probability and the next likeliest, or the filled text. For many
    texts: tab-separated, one line each. Raises InputError where there is no text.
    """
    if text is None or request.files or request.out:
        if text is not None:
            raise InputError("give a text or --file, and --out with --file or a pipe")
        model, tokenizer = load_predictor(model_folder)
        ask = partial(answers, model, tokenizer)
        return answer_all(request, "predict", head_of(model.config), ask, tab_separated)
    found = next(predictions(model_folder, [text]))
    print(json.dumps(found) if request.as_json else describe(found))
    return True


def describe(found: dict[str, Any]) -> str:
    """A prediction for a person."""
    if "labels" in found:
        return "\n".join(f"{chance:6.1%}  {label}" for label, chance in found["labels"])
    gaps = [", ".join(f"{word!r} {chance:.0%}" for word, chance in gap) for gap in found["gaps"]]
    return "\n".join([found["text"], *(f"  gap {number}: {gap}" for number, gap in enumerate(gaps, start=1))])


def tab_separated(found: dict[str, Any]) -> str:
    """Label, probability and text; or the filled text and the words that were put in; blank where there is none."""
    if "labels" in found:
        fields = [found["label"], f"{found['probability']:.4f}", found["text"]]
    elif "gaps" in found:
        fields = [found["text"], " ".join(f"{gap[0][0].strip()}={gap[0][1]:.4f}" for gap in found["gaps"])]
    else:
        fields = ["", "", found["text"] or ""]
    return "\t".join(" ".join(re.split("[\t\r\n]+", field)) for field in fields)
