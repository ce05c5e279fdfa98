"""The model card: what the model is, how good, made of what, and what not to expect of it."""

from pathlib import Path

from transformers import AutoConfig

from tasks.artifacts import Report, Trained
from tasks.evaluate import describe_score
from tasks.generate import MOST_CONTEXT
from tasks.heads import USES
from tasks.predict import MASK
from tasks.samples import show_samples
from tasks.verdict import Verdict
from training.model import Head

HEADER = """---
library_name: transformers
pipeline_tag: {pipeline}
tags:
- shoestring
- {objective}
---
"""

# What each snippet does with `model` and `tokenizer`; all documents were opened by the start token in training.
USING: dict[Head, str] = {
    "causal": """start = tokenizer(tokenizer.bos_token + "YOUR TEXT", add_special_tokens=False, return_tensors="pt")
print(tokenizer.decode(model.generate(**start, max_new_tokens=100, do_sample=True)[0]))""",
    "masked": """text = tokenizer.bos_token + "YOUR TEXT WITH A " + tokenizer.mask_token
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
gap = inputs.input_ids[0] == tokenizer.mask_token_id
print(tokenizer.decode(model(**inputs).logits[0, gap].argmax(-1)))""",
    "classification": """text = tokenizer.bos_token + "YOUR TEXT"
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt", truncation=True, max_length={context})
chances = model(**inputs).logits[0].softmax(-1)
print(model.config.id2label[int(chances.argmax())], float(chances.max()))""",
}

LOADING = """```python
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("FOLDER", attn_implementation="eager")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
{using}
```

Or `shoestring {command} "YOUR TEXT{gap}" --model {name}@champion`."""

FIGURES = {"macro_f1": "Macro F1"}
WEIGHTS = {
    "last": "of the last step",
    "average": "an exponential moving average over the training",
    "best": "of the step that validated best",
}

SAMPLES: dict[Head, str] = {
    "causal": "Prompt, then \u2506, then what the model made of it.",
    "masked": f"Passages with gaps ({MASK}); after \u2506 what stood there, and the model's word with its probability.",
    "classification": "The opening of a text; after \u2506 the label that the model gives it, and the true one.",
}

LIMITS: dict[Head, str] = {
    "causal": """A small model from a short training on one collection. It continues text of that kind plausibly, and
knows nothing: do not rely on what it says, or on code that it writes. It was not tuned to follow instructions nor
filtered for harm, and it may repeat its training text. The interval says how the score varies over documents of this
kind, not over trainings with other seeds.""",
    "masked": """A small model from a short training on one collection. It fills gaps in text of that kind plausibly,
and knows nothing; it is a start for models that tell such texts apart. Its pseudo-bits per byte sum what each token
costs given the rest of its document, with a seventh of the tokens hidden at a time: no probability of a text stands
behind them, and they compare with no causal model's bits. The interval says how the score varies over documents of
this kind, not over trainings with other seeds.""",
    "classification": """A small model from a short training on one collection. It gives every text one of its labels,
also a text of quite another kind, and reads only the first {context:,} tokens. Its probabilities are as honest as the
calibration error says, on texts of this kind; rare labels are learnt worst, which the macro averages show. The
intervals say how the figures vary over documents of this kind, not over trainings with other seeds.""",
}


def write_card(trained: Trained, report: Report, verdict: Verdict, name: str) -> Path:
    """Writes `README.md` beside the weights: figures with intervals, data, budget, use, samples, limits."""
    tokens, corpus = trained.tokens, trained.tokens.splits.corpus
    use = USES[report.head]
    config = AutoConfig.from_pretrained(trained.model_folder, trust_remote_code=False)
    context = int(getattr(config, "max_position_embeddings", 0) or MOST_CONTEXT)
    rows = {
        f"{use.unit.capitalize()}, test": f"{report.bits:.4f} (95 % {report.low:.4f} to {report.high:.4f}, "
        f"over {report.interval_covers})",
        **{
            f"{FIGURES.get(name, name.replace('_', ' ').capitalize())}, test": _interval(*value)
            for name, value in report.metrics.items()
        },
        **_baseline(report),
        "Vocabulary": f"{tokens.vocabulary:,} tokens",
        f"{use.unit.capitalize()}, validation": _number(trained.validation_bits),
        f"{use.unit.capitalize()}, folds": _folds(report),
        "Parameters": f"{trained.parameters:,}",
        "Trained on": f"{trained.tokens_trained:,} tokens in {trained.steps:,} steps",
        "Weights": WEIGHTS[trained.kept],
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
        f"{name}": in_full(describe_score(report)) + f" At registration: {verdict.sentence}.",
        "Figures": table,
        **({"Gate": gate} if (gate := verdict.table()) else {}),
        "Data": data,
        "Use": LOADING.format(
            name=name,
            auto_class=use.auto_class,
            using=USING[report.head].format(context=context),
            command=use.command,
            gap=f" WITH A {MASK}" if report.head == "masked" else "",
        ),
        "Samples": "\n\n".join([SAMPLES[report.head], *show_samples(report)]),
        "Limits": LIMITS[report.head].format(context=context),
    }
    path = trained.model_folder / "README.md"
    text = "\n\n".join(f"{'#' if part == name else '##'} {part}\n\n{body}" for part, body in sections.items())
    path.write_text(
        HEADER.format(pipeline=use.pipeline, objective=trained.objective) + "\n" + text + "\n",
        encoding="utf-8",
    )
    return path


def in_full(sentence: str) -> str:
    """With a capital and a full stop."""
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.4g} (95 % {low:.4g} to {high:.4g})"


def _baseline(report: Report) -> dict[str, str]:
    if report.baseline is None:
        return {}
    found = report.baseline
    scores = f"accuracy {found.accuracy:.4g}, macro F1 {found.macro_f1:.4g}, {found.bits:.4f} bits per label"
    return {f"Always saying {found.label!r}": scores}


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _folds(report: Report) -> str:
    folds = report.folds
    if not folds.scores:
        return f"none: {folds.reason}"
    spread = (
        f" (90 % {_number(folds.low)} to {_number(folds.high)} over {folds.interval_covers};"
        f" standard error {_number(folds.standard_error)} if folds shared no text)"
        if folds.low is not None
        else ""
    )
    leaked = f". For comparison, {folds.near_duplicates}" if folds.naive is not None else ""
    return f"{_number(folds.mean)}{spread}, {folds.reason}{leaked}"
