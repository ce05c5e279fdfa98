"""The test split, once, at the end: bits per byte with an interval, samples, and the plots."""

import base64
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from prefect import task
from prefect.artifacts import create_markdown_artifact
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks import plots
from tasks.artifacts import Folds, InputError, Report, Splits, Trained, content_key
from tasks.generate import load, sample
from tasks.telemetry import in_a_run, stage
from training.metrics import bits, score_documents
from training.model import autocast

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
SAMPLES = 5
SAMPLE_TOKENS = 120
SAMPLE_TEMPERATURE = 0.8
PROMPT_CHARACTERS = 60
FIRST_CHUNK_BYTES = 32_768  # under a second for a model of 2 M parameters on one core
CHUNK_BYTES = 262_144
SAFETY = 0.8  # of the time left is planned for, as speed varies


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    """Every text's ids after the start token; what looks like a special token in a text is text."""
    if not texts:
        return []
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)[
        "input_ids"
    ]
    return [np.array([tokenizer.bos_token_id, *row], dtype=np.int64) for row in ids]


def score_texts(
    model_folder: Path,
    texts: Sequence[str],
    device: torch.device | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Floats:
    """float64 [texts]: the negative log-likelihood of each text, in nats, under a Hugging Face folder.

    The folder's own tokenizer and context are used, so models of any vocabulary compare per byte.
    Raises ValueError where the tokenizer has no start token, or gives back other text than it was given.
    """
    model, tokenizer = load(model_folder, device)
    refuse_lossy(tokenizer, texts)
    return _score(model, encode(tokenizer, texts), progress)


def refuse_lossy(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Raises ValueError for a tokenizer whose scores would flatter it: it drops what it cannot spell."""
    if tokenizer.bos_token_id is None:
        raise ValueError("the tokenizer has no start token")
    for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
        if tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) != text:
            raise ValueError(f"the tokenizer does not give back a text that starts with {text[:40]!r}")


def _score(
    model: PreTrainedModel,
    documents: Sequence[npt.NDArray[np.int64]],
    progress: Callable[[float], None] = lambda share: None,
) -> Floats:
    context = int(model.config.max_position_embeddings)
    return score_documents(model, documents, context, autocast(model.device), progress)


def held_out_documents(splits: Splits) -> pa.Table:
    """The test split's id, text and bytes, in the corpus' order."""
    documents = pq.read_table(splits.corpus.folder / "documents.parquet", columns=["id", "text", "bytes"])
    assignment = pq.read_table(splits.folder / "assignment.parquet", columns=["id", "split"])
    if not documents["id"].equals(assignment["id"]):
        raise ValueError(f"{splits.folder / 'assignment.parquet'} is not of corpus {splits.corpus.key}")
    return documents.filter(pc.equal(assignment["split"], "test"))


def bootstrap(nats: Floats, sizes: npt.NDArray[np.int64], seed: int = 0) -> Floats:
    """float64 [RESAMPLES]: bits per byte of resamples of the documents, sum over sum.

    `nats` may also be differences between two models on the same documents: the paired bootstrap.
    """
    count = len(nats)
    resamples = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count), dtype=np.int32)
    return np.array([bits(nats[rows].sum(), int(sizes[rows].sum())) for rows in resamples])


def interval(nats: Floats, sizes: npt.NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of bits per byte over documents; of one document, no width."""
    low, high = np.quantile(bootstrap(nats, sizes, seed), [0.025, 0.975])
    return float(low), float(high)


def score_within(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: pa.Table,
    limit_seconds: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
    seed: int = 0,
) -> pa.Table:
    """id, bytes, tokens and nats of the documents scored, in a seeded random order.

    All of them, or, with a limit, as many from the front of that order as time allows: a random
    sample. The speed so far decides whether the next chunk fits; the first chunk is always scored.
    """
    started = time.monotonic()
    order = np.random.default_rng(seed).permutation(len(documents))
    ends = np.cumsum(documents["bytes"].to_numpy()[order])
    tokens: list[int] = []
    nats: list[Floats] = []
    while len(tokens) < len(order):
        done = len(tokens)
        scored = int(ends[done - 1]) if done else 0
        seconds = time.monotonic() - started
        room = np.inf if limit_seconds is None else SAFETY * (limit_seconds - seconds) * scored / seconds
        until = int(
            np.searchsorted(ends, scored + min(room, CHUNK_BYTES) if done else FIRST_CHUNK_BYTES, "right")
        )
        if until <= done and done and ends[done] - scored > room:
            break
        rows = order[done : max(until, done + 1)]
        ids = encode(tokenizer, documents["text"].take(rows).to_pylist())
        nats.append(_score(model, ids))
        tokens += [len(row) - 1 for row in ids]
        progress(float(ends[len(tokens) - 1] / ends[-1]))
    kept = documents.select(["id", "bytes"]).take(order[: len(tokens)])
    return kept.append_column("tokens", pa.array(tokens, pa.int64())).append_column(
        "nats", pa.array(np.concatenate(nats))
    )


def complete_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: pa.Table
) -> tuple[tuple[str, str], ...]:
    """Completions of the beginnings of five test documents, the same five for the same split."""
    chosen = np.random.default_rng(1).permutation(len(documents))[:SAMPLES]
    prompts = [opening(text) for text in documents["text"].take(chosen).to_pylist()]
    return tuple(
        (prompt, "".join(sample(model, tokenizer, prompt, SAMPLE_TOKENS, SAMPLE_TEMPERATURE, seed=number)))
        for number, prompt in enumerate(prompts)
    )


def opening(text: str) -> str:
    """The first lines of a text, at least PROMPT_CHARACTERS of it; a long line is cut at a space."""
    start = text[: 2 * PROMPT_CHARACTERS]
    line = start.find("\n", PROMPT_CHARACTERS)
    if line < 0:
        line = start.find(" ", PROMPT_CHARACTERS)
    return start[:line] if line > 0 else start[:PROMPT_CHARACTERS]


def evaluate(
    trained: Trained,
    folds: Folds,
    splits: Splits,
    documents_limit_seconds: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Report:
    """Scores the final model on the test split and draws the run; see `evaluate_model`."""
    started = time.monotonic()
    documents = held_out_documents(splits)
    if not len(documents):
        raise InputError("the test split is empty, so nothing can be said of the model; give more documents")
    model, tokenizer = load(trained.model_folder)
    scores = score_within(model, tokenizer, documents, documents_limit_seconds, progress)
    report = trained.folder / "report"
    report.mkdir(parents=True, exist_ok=True)
    pq.write_table(scores, report / "test_documents.parquet")
    nats, sizes = scores["nats"].to_numpy(), scores["bytes"].to_numpy()
    value = bits(nats.sum(), sizes.sum())
    low, high = interval(nats, sizes)
    drawn = draw(trained, folds, (value, low, high), report)
    return Report(
        key=content_key("report", trained.key, documents_limit_seconds),
        run_id=trained.run_id,
        bits_per_byte=value,
        low=low,
        high=high,
        interval_covers="documents" if len(scores) > 1 else "nothing: there is one test document",
        perplexity=float(np.exp(nats.sum() / max(1, pc.sum(scores["tokens"]).as_py()))),
        test_documents=len(scores),
        test_bytes=int(sizes.sum()),
        split_documents=len(documents),
        samples=complete_samples(model, tokenizer, documents),
        plots=tuple(str(path.relative_to(trained.folder)) for path in drawn),
        folds=folds,
        seconds=time.monotonic() - started,
    )


def draw(trained: Trained, folds: Folds, test: tuple[float, float, float], report: Path) -> list[Path]:
    """The run's plots, as PNG files in `report`."""
    final = trained.folder / trained.journal
    others = [path for path in sorted(trained.folder.rglob("journal.jsonl")) if path != final]
    drawn = [
        plots.learning_curve(final, others, report / "learning_curve.png"),
        plots.folds(folds, test, report / "folds.png"),
    ]
    trials = trained.folder / "trials.json"
    if trials.exists():
        drawn.append(plots.trials(json.loads(trials.read_text()), report / "trials.png"))
    return drawn


@task(name=Report.stage, task_run_name="evaluate on the test split")
def evaluate_model(
    trained: Trained, folds: Folds, splits: Splits, documents_limit_seconds: float | None = None
) -> Report:
    """Bits per byte on the test split with a 95 % interval over documents, samples and plots.

    With `documents_limit_seconds`, only a seeded random sample of the test documents, as large as
    can be scored in that time; the report counts both. Scores per document go to
    `report/test_documents.parquet` in the run folder.
    """
    with stage(Report.stage) as shown:
        report = evaluate(trained, folds, splits, documents_limit_seconds, shown)
        shown.result = describe_score(report)
    if in_a_run():
        create_markdown_artifact(
            picture_book(report), key=f"evaluation-{report.key}", description=shown.result
        )
    return report


def describe_score(report: Report) -> str:
    """One sentence: the score, its interval, and what it was taken on."""
    of = f" of {report.split_documents:,}, a seeded sample" * (report.test_documents < report.split_documents)
    return (
        f"{report.bits_per_byte:.4f} bits per byte (95 % {report.low:.4f} to {report.high:.4f}, over "
        f"{report.interval_covers}) on {report.test_documents:,} test documents{of}"
    )


def picture_book(report: Report) -> str:
    """The report as Markdown for the run's page, with plots inside."""
    parts = [f"**{describe_score(report)}**"]
    for plot in report.plots:
        image = base64.b64encode((report.folder / plot).read_bytes()).decode()
        parts.append(f"![{Path(plot).stem}](data:image/png;base64,{image})")
    parts += show_samples(report)
    return "\n\n".join(parts)


def show_samples(report: Report) -> list[str]:
    """Each sample as a fenced block: the prompt, a mark, the completion."""
    return [f"~~~~text\n{prompt}\u2506{completion}\n~~~~" for prompt, completion in report.samples]
