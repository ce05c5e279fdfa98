"""Scores of documents: nats and weight of each, resampled for intervals; one definition for report and gate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tasks.artifacts import Splits
from tasks.generate import context_of, load, start_token
from tasks.heads import head_of
from tasks.resampling import Floats, Ints, bootstrap
from tasks.workers import at_hand
from training.data import Sample
from training.metrics import MASKED_PASSES, class_log_probabilities, parts_in_time
from training.model import Head, autocast
from training.objectives import Objective
from training.pretrained import tokenizer_of

FIRST_CHUNK_BYTES = 32_768  # under a second for a causal model of 2 M parameters on one core
CHUNK_BYTES = 262_144


@dataclass(frozen=True)
class Scores:
    """Documents that were scored, in a seeded random order.

    `documents`: id, bytes, weight, tokens and nats; of a classifier also label, predicted and
    probability (of what it predicted). `probabilities` [documents, labels] are a classifier's.
    """

    documents: pa.Table
    probabilities: Floats | None = None

    @property
    def nats(self) -> Floats:
        return np.asarray(self.documents["nats"].to_numpy(), np.float64)

    @property
    def weight(self) -> Ints:
        """What bits are per: UTF-8 bytes of a text for a language model, 1 for a classifier."""
        return np.asarray(self.documents["weight"].to_numpy(), np.int64)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Ints]:
    """Every text's ids after the start token; what looks like a special token in a text is text."""
    if not texts:
        return []
    opening = start_token(tokenizer)
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)[
        "input_ids"
    ]
    return [np.array([opening, *row], dtype=np.int64) for row in ids]


def labels_of(model: PreTrainedModel) -> tuple[str, ...]:
    """A classifier's labels in the order of their ids."""
    names = model.config.id2label
    return tuple(names[number] for number in range(len(names)))


def score_texts(
    model_folder: Path,
    texts: Sequence[str],
    labels: Sequence[str] | None = None,
    device: torch.device | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Floats:
    """float64 [texts]: what each text costs a Hugging Face folder's model, in nats.

    Of a language model the (pseudo) negative log-likelihood of the text, of a classifier that of
    its label. The folder's own tokenizer and context are used, so models of any vocabulary compare.
    Raises ValueError where the tokenizer has no start token, or the model does not know a label.
    """
    model, tokenizer = load(model_folder, device)
    return _score(model_folder, model, tokenizer, encode(tokenizer, texts), labels, progress)[0]


def refuse_unfair(folders: Sequence[Path], texts: Sequence[str]) -> None:
    """Raises ValueError where the models' tokenizers differ, and one drops what it cannot spell.

    That flatters its model's score. Where all drop the same, the scores compare.
    """
    if len({(folder / "tokenizer.json").read_bytes() for folder in folders}) == 1:
        return
    for folder in folders:
        tokenizer = tokenizer_of(str(folder))
        for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
            if tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) != text:
                raise ValueError(
                    f"the tokenizer of {folder} does not give back a text that starts with {text[:40]!r}"
                )


def _score(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Ints],
    labels: Sequence[str] | None,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Floats, Floats | None]:
    """Nats of each document, and a classifier's log-probabilities [documents, labels].

    Workers that are at hand share what a language model has to score.
    """
    context, precise = context_of(model, tokenizer), autocast(model.device)
    head = head_of(model.config)
    if head != "classification":
        objective = next(member for member in get_args(get_args(Objective)[0]) if member.head == head)()
        if (workers := at_hand()) is not None:
            return workers.score(folder, objective, list(documents), context, tokenizer.mask_token_id), None
        sample = Sample(list(documents), np.full(len(documents), -1), np.ones(len(documents)))
        return objective.score(model, sample, context, tokenizer.mask_token_id, precise, progress), None
    known = labels_of(model)
    strange = sorted(set(labels or ()) - set(known))
    if labels is None or strange:
        raise ValueError(
            f"it does not know the label {strange[0]!r}" if strange else "the texts have no labels"
        )
    chances = class_log_probabilities(model, documents, context, precise, progress)
    return -chances[np.arange(len(documents)), [known.index(label) for label in labels]], chances


def held_out_documents(splits: Splits, head: Head = "causal") -> pa.Table:
    """The test split's id, text, bytes and label, in the corpus' order; for a classifier, those with a label."""
    return held_out_in(splits.corpus.folder, splits.folder, head)


def held_out_in(corpus: Path, splits: Path, head: Head, further: Sequence[str] = ()) -> pa.Table:
    """The same by the folders of corpus and splits, with `further` columns, of which a corpus may lack some."""
    there = pq.read_schema(corpus / "documents.parquet").names
    columns = ["id", "text", "bytes", "label", *(name for name in further if name in there)]
    documents = pq.read_table(corpus / "documents.parquet", columns=columns)
    found = documents.filter(pc.equal(sides_in(corpus, splits), "test"))
    return found.filter(pc.is_valid(found["label"])) if head == "classification" else found


def sides_in(corpus: Path, splits: Path) -> pa.ChunkedArray:
    """The split of every document, in the corpus' order. Raises ValueError where they are another corpus'."""
    assignment = pq.read_table(splits / "assignment.parquet", columns=["id", "split"])
    if not pq.read_table(corpus / "documents.parquet", columns=["id"])["id"].equals(assignment["id"]):
        raise ValueError(f"{splits / 'assignment.parquet'} is not of corpus {corpus.name}")
    return assignment["split"]


def score_within(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: pa.Table,
    limit_seconds: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
    seed: int = 0,
) -> Scores:
    """Scores of the documents: id, text, bytes and, for a classifier, label.

    All of them, or, with a limit, as many from the front of a seeded random order as time allows: a
    random sample. The speed so far decides whether the next chunk fits; the first chunk is always
    scored.
    """
    order = np.random.default_rng(seed).permutation(len(documents))
    ends = np.cumsum(documents["bytes"].to_numpy()[order])
    head = head_of(model.config)
    first = FIRST_CHUNK_BYTES // (MASKED_PASSES if head == "masked" else 1)
    tokens: list[int] = []
    nats: list[Floats] = []
    chances: list[Floats] = []
    for part in parts_in_time(ends, first, CHUNK_BYTES, limit_seconds):
        chunk = documents.take(order[part])
        ids = encode(tokenizer, chunk["text"].to_pylist())
        of_chunk, chances_of_chunk = _score(
            Path(model.name_or_path),
            model,
            tokenizer,
            ids,
            chunk["label"].to_pylist() if head == "classification" else None,
        )
        nats.append(of_chunk)
        if chances_of_chunk is not None:
            chances.append(np.exp(chances_of_chunk))
        tokens += [len(row) - 1 for row in ids]
        progress(float(ends[len(tokens) - 1] / ends[-1]))
    kept = documents.take(order[: len(tokens)])
    found = _table(kept, tokens, np.concatenate(nats))
    if not chances:
        return Scores(found)
    said, known = np.concatenate(chances), labels_of(model)
    found = found.set_column(2, "weight", pa.array(np.ones(len(kept), np.int64)))
    found = found.append_column("label", kept["label"])
    found = found.append_column("predicted", pa.array([known[number] for number in said.argmax(1)]))
    return Scores(found.append_column("probability", pa.array(said.max(1))), said)


def _table(documents: pa.Table, tokens: list[int], nats: Floats) -> pa.Table:
    """A language model's scores: each document weighs its bytes."""
    columns = {"id": documents["id"], "bytes": documents["bytes"], "weight": documents["bytes"]}
    return pa.table(columns | {"tokens": pa.array(tokens, pa.int64()), "nats": pa.array(nats)})


def interval(nats: Floats, weight: Ints, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of bits per weight over documents; of one document, no width."""
    low, high = np.quantile(bootstrap(nats, weight, seed), [0.025, 0.975])
    return float(low), float(high)


def train_labels(splits: Splits) -> list[str]:
    """The label of every labelled document of the train split."""
    labels = pq.read_table(splits.corpus.folder / "documents.parquet", columns=["label"])["label"]
    found: list[str] = labels.filter(
        pc.and_(pc.equal(sides_in(splits.corpus.folder, splits.folder), "train"), pc.is_valid(labels))
    ).to_pylist()
    return found
