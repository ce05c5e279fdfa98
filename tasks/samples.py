"""What a model makes of a few test documents: it writes on, fills gaps, or names a label; the same five each time."""

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.artifacts import Report
from tasks.generate import context_of
from tasks.heads import head_of
from tasks.predict import MASK, candidates, classify
from tasks.resampling import Ints
from tasks.scores import encode
from tasks.writing import Wish, sample

SAMPLES = 5
SAMPLE_TOKENS = 120
SAMPLE_TEMPERATURE = 0.8
PROMPT_CHARACTERS = 60
OPENING_CHARACTERS = 300  # of a text that a label was given to
GAPS = 4  # in each text, and
GAPPED_TOKENS = 48  # of so many tokens

Sample = tuple[str, str]  # what the model was given, and what it made of it


def samples_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: pa.Table
) -> tuple[Sample, ...]:
    """Five test documents, the same for the same split: id, text and, for a classifier, label."""
    chosen = documents.take(np.random.default_rng(1).permutation(len(documents))[:SAMPLES])
    texts: list[str] = chosen["text"].to_pylist()
    head = head_of(model.config)
    if head == "causal":
        return tuple(_written_on(model, tokenizer, text, seed) for seed, text in enumerate(texts))
    if head == "masked":
        found = [_filled(model, tokenizer, text, seed) for seed, text in enumerate(texts)]
        return tuple(one for one in found if one is not None)
    ranked = classify(model, tokenizer, texts)
    return tuple(
        (text[:OPENING_CHARACTERS], f"{said[0][0]} ({said[0][1]:.0%}), and it is {label}")
        for text, said, label in zip(texts, ranked, chosen["label"].to_pylist(), strict=True)
    )


def _written_on(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, seed: int) -> Sample:
    prompt = opening(text)
    wish = Wish(SAMPLE_TOKENS, SAMPLE_TEMPERATURE, seed=seed)
    return prompt, "".join(sample(model, tokenizer, prompt, wish))


def _filled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, seed: int
) -> Sample | None:
    """A passage with gaps, and what stood there beside what the model says; None without a word to hide."""
    ids = encode(tokenizer, [text])[0][: min(GAPPED_TOKENS, context_of(model, tokenizer))]
    words = [at for at in range(1, len(ids)) if tokenizer.decode([int(ids[at])]).strip().isalnum()]
    if not words:
        return None
    chosen = sorted(np.random.default_rng(seed).permutation(words)[:GAPS].tolist())
    gaps: Ints = ids.copy()
    gaps[chosen] = tokenizer.mask_token_id
    ((_, ranked),) = candidates(model, tokenizer, [gaps])
    lines = [
        f"{tokenizer.decode([int(ids[at])]).strip()!r}: {said[0][0].strip()!r} ({said[0][1]:.0%})"
        for at, said in zip(chosen, ranked, strict=True)
    ]
    shown = tokenizer.decode(gaps[1:]).replace(tokenizer.mask_token, MASK)
    return shown, ", ".join(lines)


def opening(text: str) -> str:
    """The first lines of a text, at least PROMPT_CHARACTERS of it; a long line is cut at a space."""
    start = text[: 2 * PROMPT_CHARACTERS]
    line = start.find("\n", PROMPT_CHARACTERS)
    if line < 0:
        line = start.find(" ", PROMPT_CHARACTERS)
    return start[:line] if line > 0 else start[:PROMPT_CHARACTERS]


def show_samples(report: Report) -> list[str]:
    """Each sample as a fenced block: what was given, a mark, what the model made of it."""
    join = "\u2506" if report.head == "causal" else "\n\u2506 "
    return [f"~~~~text\n{given}{join}{made}\n~~~~" for given, made in report.samples]
