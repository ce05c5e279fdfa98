"""The test split, once, at the end: the deciding number with an interval, what else is known, samples, plots."""

import base64
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks import plots
from tasks.artifacts import Baseline, Folds, InputError, Report, Splits, Trained
from tasks.generate import load
from tasks.heads import USES, head_of
from tasks.resampling import RESAMPLES, Ints
from tasks.run_page import in_a_run, show
from tasks.samples import samples_of, show_samples
from tasks.scores import Scores, held_out_documents, interval, labels_of, score_within, train_labels
from tasks.store import content_key
from tasks.telemetry import stage
from training.classification import classification_metrics, macro_averages, resampled_metrics
from training.model import Head
from training.units import bits

MOST_DRAWS = 40_000_000  # documents in all resamples: 2 s on one core
FEWEST_RESAMPLES = 200
Interval = tuple[float, float, float]  # value, low, high


def evaluate(
    trained: Trained,
    folds: Folds,
    splits: Splits,
    documents_limit_seconds: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Report:
    """Scores the final model on the test split and draws the run; see `evaluate_model`."""
    started = time.monotonic()
    model, tokenizer = load(trained.model_folder)
    head = head_of(model.config)
    documents = held_out_documents(splits, head)
    if not len(documents):
        raise InputError(
            f"the test split is empty{' of labels' * (head == 'classification')}, "
            "so nothing can be said of the model; give more documents"
        )
    scores = score_within(model, tokenizer, documents, documents_limit_seconds, progress)
    report = trained.folder / "report"
    report.mkdir(parents=True, exist_ok=True)
    pq.write_table(scores.documents, report / "test_documents.parquet")
    value = bits(scores.nats.sum(), int(scores.weight.sum()))
    test = (value, *interval(scores.nats, scores.weight))
    labels = labels_of(model) if head == "classification" else ()
    drawn = draw(trained, folds, test, report, head) + draw_classes(scores, labels, report)
    return Report(
        key=content_key("report", trained.key, documents_limit_seconds),
        run_id=trained.run_id,
        head=head,
        unit=USES[head].unit,
        bits=test[0],
        low=test[1],
        high=test[2],
        interval_covers="documents" if len(scores.documents) > 1 else "nothing: there is one test document",
        metrics=further_metrics(scores, head, labels),
        baseline=majority(train_labels(splits), scores, labels) if labels else None,
        test_documents=len(scores.documents),
        test_bytes=pc.sum(scores.documents["bytes"]).as_py(),
        split_documents=len(documents),
        samples=samples_of(model, tokenizer, documents),
        plots=tuple(str(path.relative_to(trained.folder)) for path in drawn),
        folds=folds,
        seconds=time.monotonic() - started,
    )


def further_metrics(scores: Scores, head: Head, labels: tuple[str, ...]) -> dict[str, Interval]:
    """What is reported beside the deciding number: value and 95 % bootstrap interval over documents.

    A calibration error is a little higher in resamples than it is, so its interval is taken to
    where the value lies.
    """
    if scores.probabilities is None:
        tokens = np.maximum(1, np.asarray(scores.documents["tokens"].to_numpy(), np.int64))
        value = bits(scores.nats.sum(), int(tokens.sum()))
        name = "perplexity" if head == "causal" else "pseudo_perplexity"
        low, high = interval(scores.nats, tokens)
        return {name: (2.0**value, 2.0**low, 2.0**high)}
    truth = label_ids(scores, labels)
    values = classification_metrics(scores.probabilities, truth)
    resamples = max(FEWEST_RESAMPLES, min(RESAMPLES, MOST_DRAWS // len(truth)))
    drawn = resampled_metrics(scores.probabilities, truth, resamples)
    found = {}
    for name, figure in values.items():
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        found[name] = (figure, min(figure, float(low)), max(figure, float(high)))
    return found


def label_ids(scores: Scores, labels: tuple[str, ...]) -> Ints:
    """int64 [documents]: the id of each scored document's label."""
    ids = {label: number for number, label in enumerate(labels)}
    return np.array([ids[label] for label in scores.documents["label"].to_pylist()], np.int64)


def majority(train: list[str], scores: Scores, labels: tuple[str, ...]) -> Baseline:
    """What saying the commonest label of the train split is worth on the scored documents.

    Its bits are those of the labels' shares in the train split, each label counted once more than
    it occurs, so that a label which only the test split has is not infinitely surprising.
    """
    truth, kinds, trained = label_ids(scores, labels), len(labels), Counter(train)
    shares = np.array([1 + trained[label] for label in labels], np.float64)
    shares /= shares.sum()
    said = int(shares.argmax())
    counts = np.bincount(truth, minlength=kinds)
    always = np.zeros(kinds, np.int64)
    always[said] = len(truth)
    hits = np.where(np.arange(kinds) == said, counts, 0)
    return Baseline(
        label=labels[said],
        accuracy=float(counts[said] / len(truth)),
        macro_f1=macro_averages(hits, counts, always)["macro_f1"],
        bits=float(-np.log2(shares[truth]).mean()),
    )


def draw(trained: Trained, folds: Folds, test: Interval, report: Path, head: Head) -> list[Path]:
    """The run's plots, as PNG files in `report`."""
    final, unit = trained.folder / trained.journal, USES[head].unit
    others = [path for path in sorted(trained.folder.rglob("journal.jsonl")) if path != final]
    drawn = [
        plots.learning_curve(final, others, report / "learning_curve.png", unit),
        plots.folds(folds, test, report / "folds.png", unit),
    ]
    search = trained.folder / "search.json"
    if search.exists():
        drawn.append(plots.trials(json.loads(search.read_text())["trials"], report / "trials.png", unit))
    return drawn


def draw_classes(scores: Scores, labels: tuple[str, ...], report: Path) -> list[Path]:
    """A classifier's confusion matrix and reliability diagram; of a language model nothing."""
    if scores.probabilities is None:
        return []
    truth, said = label_ids(scores, labels), scores.probabilities.argmax(1)
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (truth, said), 1)
    return [
        plots.confusion(counts, labels, report / "confusion.png"),
        plots.reliability(scores.probabilities.max(1), said == truth, report / "reliability.png"),
    ]


@task(name=Report.stage, task_run_name="evaluate on the test split")
def evaluate_model(
    trained: Trained, folds: Folds, splits: Splits, documents_limit_seconds: float | None = None
) -> Report:
    """Bits per byte or label on the test split with a 95 % interval over documents, samples and plots.

    With `documents_limit_seconds`, only a seeded random sample of the test documents, as large as
    can be scored in that time; the report counts both. Scores per document go to
    `report/test_documents.parquet` in the run folder.
    """
    with stage(Report.stage) as shown:
        report = evaluate(trained, folds, splits, documents_limit_seconds, shown)
        shown.result = describe_score(report)
    if in_a_run():
        text, key = picture_book(report), f"evaluation-{report.key}"
        show(create_markdown_artifact, text, key=key, description=shown.result)
    return report


def describe_score(report: Report) -> str:
    """One sentence: the score, its interval, what it was taken on, and how a classifier does by it."""
    of = f" of {report.split_documents:,}, a seeded sample" * (report.test_documents < report.split_documents)
    score = (
        f"{report.bits:.4f} {USES[report.head].unit} (95 % {report.low:.4f} to {report.high:.4f}, over "
        f"{report.interval_covers}) on {report.test_documents:,} test documents{of}"
    )
    if "accuracy" not in report.metrics or report.baseline is None:
        return score
    value, low, high = report.metrics["accuracy"]
    return (
        f"accuracy {value:.1%} (95 % {low:.1%} to {high:.1%}; always saying {report.baseline.label!r}: "
        f"{report.baseline.accuracy:.1%}), {score}"
    )


def picture_book(report: Report) -> str:
    """The report as Markdown for the run's page, with plots inside."""
    parts = [f"**{describe_score(report)}**"]
    for plot in report.plots:
        image = base64.b64encode((report.folder / plot).read_bytes()).decode()
        parts.append(f"![{Path(plot).stem}](data:image/png;base64,{image})")
    if report.folds.naive is not None:
        parts.append(f"Folds: {report.folds.near_duplicates}.")
    parts += show_samples(report)
    return "\n\n".join(parts)
