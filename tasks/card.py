"""The model card: what the model is, how good, made of what, and what not to expect of it."""

from pathlib import Path

from tasks.artifacts import Report, Trained
from tasks.evaluate import describe_score, show_samples
from tasks.gate import Verdict

HEADER = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- shoestring
- {objective}
---
"""

LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", attn_implementation="eager")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
start = tokenizer(tokenizer.bos_token + "YOUR TEXT", add_special_tokens=False, return_tensors="pt")
print(tokenizer.decode(model.generate(**start, max_new_tokens=100, do_sample=True)[0]))
```

Or `shoestring generate "YOUR TEXT" --model {name}@champion`."""


LIMITS = """A small model from a short training on one collection. It continues text of that kind plausibly, and knows
nothing: do not rely on what it says, or on code that it writes. It was not tuned to follow instructions nor filtered
for harm, and it may repeat its training text. The interval says how the score varies over documents of this kind, not
over trainings with other seeds."""


def write_card(trained: Trained, report: Report, verdict: Verdict, name: str) -> Path:
    """Writes `README.md` beside the weights: figures with intervals, data, budget, use, samples, limits."""
    tokens, corpus = trained.tokens, trained.tokens.splits.corpus
    rows = {
        "Bits per byte, test": f"{report.bits_per_byte:.4f} (95 % {report.low:.4f} to {report.high:.4f}, "
        f"over {report.interval_covers})",
        "Perplexity per token, test": f"{report.perplexity:.2f} (vocabulary {tokens.vocabulary:,})",
        "Bits per byte, validation": _number(trained.validation_bits_per_byte),
        "Bits per byte, folds": _folds(report),
        "Parameters": f"{trained.parameters:,}",
        "Trained on": f"{trained.tokens_trained:,} tokens in {trained.steps:,} steps",
        "Final run": f"{trained.final_seconds:.0f} s on {trained.workers} worker"
        + "s" * (trained.workers != 1),
    }
    table = "\n".join(["| figure | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])
    sides = tokens.splits.documents
    data = (
        f"{corpus.source}: {corpus.documents:,} documents, {corpus.bytes / 1e6:.1f} MB after cleaning "
        f"({sum(corpus.dropped.values()):,} of {corpus.documents_read:,} dropped); "
        f"{sides.get('train', 0):,} to train on, {sides.get('validation', 0):,} to validate, "
        f"{sides.get('test', 0):,} to test. "
        f"Digest of data and tokenizer: `{tokens.key}`."
    )
    sections = {
        f"{name}": describe_score(report) + f". At registration: {verdict.sentence}.",
        "Figures": table,
        "Data": data,
        "Use": LOADING.format(name=name),
        "Samples": "Prompt, then \u2506, then what the model made of it.\n\n"
        + "\n\n".join(show_samples(report)),
        "Limits": LIMITS,
    }
    path = trained.model_folder / "README.md"
    text = "\n\n".join(f"{'#' if part == name else '##'} {part}\n\n{body}" for part, body in sections.items())
    path.write_text(HEADER.format(objective=trained.objective) + "\n" + text + "\n", encoding="utf-8")
    return path


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _folds(report: Report) -> str:
    folds = report.folds
    if not folds.scores:
        return f"none: {folds.reason}"
    interval = (
        f" (90 % {_number(folds.low)} to {_number(folds.high)} over folds)" if folds.low is not None else ""
    )
    return (
        f"{_number(folds.mean)}{interval}, {len(folds.scores)} trainings of {folds.seconds_each:.0f} s each"
    )
