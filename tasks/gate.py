"""The gate: a challenger becomes champion only where it is better beyond chance, and no part of the text pays."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from tasks.artifacts import Report, Trained
from tasks.difference import difference
from tasks.earlier_tests import EARLIER_SHARE, earlier_documents, known_tests, trained_on
from tasks.generate import context_of, fetch, load
from tasks.heads import USES, head_of
from tasks.resampling import Floats, Ints
from tasks.scores import encode, held_out_in, refuse_unfair, score_texts
from tasks.seed_noise import SeedNoise
from tasks.slices import COLUMNS, Part, judge_parts, parts_of
from tasks.verdict import Rules, Verdict
from training.model import Head
from training.pretrained import read_config
from training.units import bits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

READ_DOCUMENTS, READ_CHARACTERS, READ_ROUNDS = (
    16,
    512,
    3,
)  # to compare speeds by; the median of the rounds counts


def judge(
    client: "MlflowClient",
    champion: "ModelVersion | None",
    trained: Trained,
    report: Report,
    rules: Rules,
    noises: tuple[SeedNoise, SeedNoise],
) -> Verdict:
    """Scores the champion again on the documents that the challenger was scored on, and compares.

    So it goes with what champions before were tested on, where the store still holds it. `noises` are
    those of the challenger's and of the champion's recipe. A champion that cannot be scored, or was
    made for something else, keeps its place, and the reason says why.
    """
    scores = pq.read_table(report.folder / "report" / "test_documents.parquet")
    weight, challenger = scores["weight"].to_numpy(), scores["nats"].to_numpy()
    alone = Verdict(
        promoted=champion is None,
        reason="first",
        unit=USES[report.head].unit,
        challenger_bits=bits(challenger.sum(), int(weight.sum())),
        alpha=rules.alpha,
        documents=len(scores),
    )
    if champion is None:
        return alone
    named = f"version {champion.version}, the champion,"
    try:
        folder = fetch(client, champion)
        if why := difference_in_kind(trained.model_folder, folder):
            reason = (
                f"{named} cannot be compared: {why}; give another promotion.name, or `shoestring promote` it"
            )
            return alone.model_copy(update={"reason": reason, "champion_version": int(champion.version)})
        return against(champion, folder, trained, report, scores, rules, noises)
    except Exception as problem:  # whatever is wrong with a stored model, the run itself is sound
        why = " ".join(f"{type(problem).__name__}: {problem}".split())
        reason = f"{named} cannot be scored: {why}"[:500]
        return alone.model_copy(update={"reason": reason, "champion_version": int(champion.version)})


def against(
    champion: "ModelVersion",
    folder: Path,
    trained: Trained,
    report: Report,
    scores: pa.Table,
    rules: Rules,
    noises: tuple[SeedNoise, SeedNoise],
) -> Verdict:
    """The challenger against a champion of its kind, in `folder`."""
    splits, head, notes = trained.tokens.splits, report.head, []
    tested = known_tests(champion)
    others = [other for other in tested if other.splits != splits.key]
    seen = trained_on(tested[0]) if tested else pa.array([], pa.string())
    unseen = pc.invert(pc.is_in(scores["id"], seen))
    if left_out := len(scores) - pc.sum(unseen).as_py():
        notes.append(f"{left_out:,} test documents are left out, as the champion was trained on them")
        scores = scores.filter(unseen)
    documents = in_order(held_out_in(splits.corpus.folder, splits.folder, head, COLUMNS), scores["id"])
    labels = list(read_config(folder).label2id)
    most_bytes = int(EARLIER_SHARE * pc.sum(documents["bytes"]).as_py())
    earlier, skipped = earlier_documents(others, trained, head, labels, seen, most_bytes)
    models = (trained.model_folder, folder)
    if head != "classification":
        for table in (documents, *(table for _, table in earlier)):
            refuse_unfair(models, table["text"].to_pylist())
    weight, challenger = scores["weight"].to_numpy(), scores["nats"].to_numpy()
    nats = nats_of(folder, documents, head)
    parts = parts_of(documents, challenger, nats, weight)
    for name, table in earlier:
        sizes = np.ones(len(table), np.int64) if head == "classification" else table["bytes"].to_numpy()
        new, old = (nats_of(model, table, head) for model in models)
        parts.append(Part("earlier test", name, new, old, sizes))
    verdict = compare(challenger, nats, weight, int(champion.version), rules, noises, USES[head].unit, parts)
    return limited(verdict, models, documents["text"].to_pylist(), rules).model_copy(
        update={"notes": (*notes, *skipped)}
    )


def in_order(documents: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    """The rows of these ids, in their order."""
    return documents.take(pc.index_in(ids, documents["id"].combine_chunks()))


def nats_of(folder: Path, documents: pa.Table, head: Head) -> Floats:
    """float64 [documents]: what each costs the model."""
    labels = documents["label"].to_pylist() if head == "classification" else None
    return score_texts(folder, documents["text"].to_pylist(), labels)


def difference_in_kind(challenger: Path, champion: Path) -> str:
    """Why two model folders were not made for the same: another head, other labels; empty if they were."""
    new, old = map(read_config, (challenger, champion))
    if head_of(new) != head_of(old):
        return f"it is {USES[head_of(old)].article_noun}, and this {USES[head_of(new)].article_noun}"
    if head_of(new) != "classification":
        return ""
    unknown = [f"it does not know {label!r}" for label in sorted(set(new.label2id) - set(old.label2id))]
    gone = [f"only it knows {label!r}" for label in sorted(set(old.label2id) - set(new.label2id))]
    parts = unknown[:1] + gone[:1]
    return f"it has other labels ({', and '.join(parts)})" if parts else ""


def compare(
    challenger: Floats,
    champion: Floats,
    weight: Ints,
    version: int,
    rules: Rules,
    noises: tuple[SeedNoise, SeedNoise],
    unit: str = "bits per byte",
    parts: Sequence[Part] = (),
) -> Verdict:
    """Are the challenger's nats per weight lower, beyond what documents and seeds explain, and no part's much higher?

    One-sided. Below log2(1/alpha) documents no comparison is accepted: so few can all favour the worse
    model by chance.
    """
    seen = difference(challenger, champion, weight, noises, exact=True)
    needed = math.ceil(math.log2(1 / rules.alpha))
    few, p_value = len(weight) < needed, seen.chance_below()
    better = p_value < rules.alpha and not few
    judged = judge_parts(parts, noises, rules)
    vetoes = tuple(f"worse than it on {part.described}" for part in judged if part.said == "worse")
    low, high = seen.interval()
    return Verdict(
        promoted=better and not vetoes,
        reason="better"
        if better
        else f"too few documents to tell ({needed} needed), so no better"
        if few
        else "not better",
        champion_version=version,
        unit=unit,
        challenger_bits=seen.challenger_bits,
        champion_bits=seen.champion_bits,
        difference=seen.bits,
        difference_low=low,
        difference_high=high,
        documents_error=seen.documents_error,
        runs_error=seen.runs_error,
        noises=noises,
        p_value=p_value,
        alpha=rules.alpha,
        documents=len(weight),
        slice_margin=rules.slice_margin,
        slices=judged,
        vetoes=vetoes if better else (),
    )


def limited(verdict: Verdict, models: tuple[Path, Path], texts: Sequence[str], rules: Rules) -> Verdict:
    """The verdict after the user's limits on time and size, where there are any; `models` are challenger, champion."""
    slower = times_slower(models, texts) if rules.slower_limit else None
    larger = weight_bytes(models[0]) / weight_bytes(models[1]) if rules.larger_limit else None
    vetoes = list(verdict.vetoes)
    for word, value, limit in (
        ("slower", slower, rules.slower_limit),
        ("larger", larger, rules.larger_limit),
    ):
        if verdict.reason == "better" and value and limit and value > limit:
            vetoes.append(f"{value:.2f} times {word} than it, of {limit:g} at most")
    promoted = verdict.promoted and not vetoes
    return verdict.model_copy(
        update={"slower": slower, "larger": larger, "vetoes": tuple(vetoes), "promoted": promoted}
    )


def weight_bytes(folder: Path) -> int:
    """Bytes of a model's weights on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@torch.inference_mode()
def times_slower(models: tuple[Path, Path], texts: Sequence[str]) -> float:
    """The first model's time to read the openings of some texts, over the second's; taken in turns."""
    loaded = [load(folder) for folder in models]
    openings = [text[:READ_CHARACTERS] for text in texts[:READ_DOCUMENTS]]
    rows = [
        [torch.tensor(ids[None, : context_of(model, tokenizer)]) for ids in encode(tokenizer, openings)]
        for model, tokenizer in loaded
    ]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + READ_ROUNDS):  # the first warms up
        for (model, _), documents, spent in zip(loaded, rows, seconds, strict=True):
            began = time.perf_counter()
            for ids in documents:
                model(input_ids=ids.to(model.device)).logits.sum().item()  # which waits for a GPU
            spent.append(time.perf_counter() - began)
    first, second = (float(np.median(spent[1:])) for spent in seconds)
    return first / second
