"""Text to tokens: the tokenizer learnt on the train split, and the packed shards that trainings read."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from pydantic import Field
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tasks import artifacts, split
from tasks.artifacts import InputError, Splits, Tokens, cache_key, code_key, content_key, storing
from tasks.telemetry import stage
from training import data
from training.budget import vocabulary_rule
from training.config import AnyOf, Choice

START = "<|endoftext|>"  # opens every document, and so ends the one before; its id is 0
BYTE_VOCABULARY = 257  # the bytes and the start token
SAMPLE_BYTES = 10_000_000  # of the train split, that byte pairs are learnt from
BATCH_BYTES = 2_000_000  # encoded at once; an encoding takes about 40 times its text's memory
CHECKED_SHARE = 1 / 32  # of train documents that are decoded again; of the others all are
MINIMUM_TRAIN_TOKENS = 20_000  # about ten steps of the smallest plan; by eye
LEARNING_SHARE = 0.4  # of this stage's time

SPLITS = get_args(data.Split)


class BytePairs(Choice):
    """Byte-level byte-pair encoding, learnt on the train split: lossless for any text."""

    kind: Literal["byte_pairs"] = "byte_pairs"
    vocabulary: int | None = Field(
        default=None,
        ge=BYTE_VOCABULARY,
        le=262_144,
        description="Number of tokens. More say more bytes each, but each step costs more and rare ones are"
        " learnt badly. Empty: what suits the text and the budget.",
    )

    def size(self, corpus_bytes: int, seconds: float) -> int:
        """How many tokens to aim at; a small corpus may yield fewer."""
        return self.vocabulary or max(BYTE_VOCABULARY, vocabulary_rule(corpus_bytes, seconds))

    def learn(self, texts: Iterable[str], size: int) -> Backend:
        """A tokenizer of at most `size` tokens, learnt from `texts`."""
        backend = _byte_level()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=[START],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return backend


class Bytes(Choice):
    """A token for each byte: nothing to learn, the smallest output layer, the longest sequences."""

    kind: Literal["bytes"] = "bytes"

    def size(self, corpus_bytes: int, seconds: float) -> int:
        """The bytes and the start token."""
        return BYTE_VOCABULARY

    def learn(self, texts: Iterable[str], size: int) -> Backend:
        """The same for all texts."""
        return BytePairs().learn([], size)


Tokenizer = Annotated[BytePairs | Bytes, Field(discriminator="kind"), AnyOf()]


class Clock(Protocol):
    """What is needed of `tasks.plan.Clock`."""

    @property
    def budget_seconds(self) -> float: ...


@dataclass(frozen=True)
class Texts:
    """A corpus with its sides, read in batches of bounded memory, in the corpus' order."""

    corpus: Path  # documents.parquet
    assignment: Path  # assignment.parquet

    def batches(self) -> Iterator[pa.Table]:
        """The corpus' columns with split, fold and cluster, about BATCH_BYTES of text at a time."""
        sides = pq.read_table(self.assignment, columns=["split", "fold", "cluster"])
        start = 0
        with pq.ParquetFile(self.corpus) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                for name in sides.column_names:
                    table = table.append_column(name, sides[name].slice(start, len(table)).combine_chunks())
                start += len(table)
                ends = np.cumsum(table["bytes"].to_numpy())
                cuts = np.searchsorted(ends, np.arange(BATCH_BYTES, ends[-1], BATCH_BYTES)).tolist()
                for first, last in zip([0, *cuts], [*cuts, len(table)], strict=True):
                    if first < last:
                        yield table.slice(first, last - first)

    def sample(self, share: float) -> Iterator[str]:
        """Texts of about this share of the train split, chosen by their ids."""
        for batch in self.batches():
            for name, side, text in zip(*map(_values(batch), ("id", "split", "text")), strict=True):
                if side == "train" and _chosen(name, share):
                    yield text


class Packer:
    """Writes shards as `training.data.Shards` reads them."""

    def __init__(self, folder: Path, vocabulary: int, files: ExitStack) -> None:
        self.dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
        self.rows: dict[str, list[tuple[int, int, int, int, int]]] = {name: [] for name in SPLITS}
        self.tokens = dict.fromkeys(SPLITS, 0)
        self._folder, self._vocabulary = folder, vocabulary
        self._files = {name: files.enter_context((folder / f"{name}.bin").open("wb")) for name in SPLITS}

    def add(self, name: str, ids: list[int], size_bytes: int, fold: int) -> int:
        """The document's offset, in tokens, in its split."""
        offset = self.tokens[name]
        self._files[name].write(np.array(ids, self.dtype).tobytes())
        self.rows[name].append((offset, len(ids), size_bytes, fold, -1))
        self.tokens[name] += len(ids)
        return offset

    def finish(self) -> None:
        """Writes the indices and the header."""
        for name, rows in self.rows.items():
            np.save(self._folder / f"{name}.npy", np.array(rows, np.int64).reshape(-1, 5))
        header = {
            "dtype": self.dtype.name,
            "vocabulary": self._vocabulary,
            "start_token": 0,
            "mask_token": None,
            "labels": [],
        }
        (self._folder / "shards.json").write_text(json.dumps(header))


def pack(
    texts: Texts, backend: Backend, folder: Path, progress: Callable[[float], None] = lambda share: None
) -> dict[str, int]:
    """Encodes everything, in parallel, into shards and `documents.parquet`; the tokens of each split.

    Raises ValueError where decoding does not give back a document of validation or test, or one of
    a sample of train.
    """
    backend.encode_special_tokens = True  # a text that spells the start token is text
    total = max(1, pq.read_metadata(texts.corpus).num_rows)
    done = 0
    with ExitStack() as files:
        packer = Packer(folder, backend.get_vocab_size(), files)
        writer: pq.ParquetWriter | None = None
        for batch in texts.batches():
            table = _pack_batch(batch, backend, packer)
            if writer is None:
                writer = files.enter_context(
                    pq.ParquetWriter(folder / "documents.parquet", table.schema, compression="zstd")
                )
            writer.write_table(table)
            done += len(batch)
            progress(done / total)
        packer.finish()
    return packer.tokens


def _pack_batch(batch: pa.Table, backend: Backend, packer: Packer) -> pa.Table:
    """The batch without its text, with each document's tokens and offset; null for those in no split."""
    values = _values(batch)
    names, sides, folds, sizes = (values(column) for column in ("id", "split", "fold", "bytes"))
    texts: list[str] = values("text")
    encoded = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    checked = [row for row, side in enumerate(sides) if side != "train" or _chosen(names[row], CHECKED_SHARE)]
    decoded = backend.decode_batch([encoded[row][1:] for row in checked], skip_special_tokens=False)
    for row, text in zip(checked, decoded, strict=True):
        if text != texts[row]:
            raise ValueError(f"The tokenizer loses text of document {names[row]}: this is a defect of ours.")
    lengths: list[int | None] = [len(ids) if side else None for ids, side in zip(encoded, sides, strict=True)]
    offsets = [
        packer.add(side, ids, size, fold) if side else None
        for side, ids, size, fold in zip(sides, encoded, sizes, folds, strict=True)
    ]
    table = batch.drop_columns(["text"])
    table = table.append_column("tokens", pa.array(lengths, pa.int64()))
    return table.append_column("offset", pa.array(offsets, pa.int64()))


def save_tokenizer(backend: Backend, folder: Path) -> None:
    """A folder that `AutoTokenizer.from_pretrained` loads; it opens each text with the start token."""
    from transformers import PreTrainedTokenizerFast  # takes a second

    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START,
        eos_token=START,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(str(folder))


def tokens_key(splits: Splits, tokenizer: Tokenizer, clock: Clock) -> str:
    """Names the tokens by the splits, the tokenizer's kind and size, and the code."""
    code = code_key(sys.modules[__name__], artifacts, data, split)
    return content_key(splits.key, tokenizer.kind, _size(splits, tokenizer, clock), code)


@task(
    name="Tokenize the corpus",
    task_run_name="tokenize-{tokenizer.kind}",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=cache_key(Tokens, tokens_key),
)
def tokenize_corpus(splits: Splits, tokenizer: Tokenizer, clock: Clock) -> Tokens:
    """Tokenizer and shards, in the store. Raises InputError where the train split is too small for a batch."""
    key, size = tokens_key(splits, tokenizer, clock), _size(splits, tokenizer, clock)
    texts = Texts(splits.corpus.folder / "documents.parquet", splits.folder / "assignment.parquet")
    with stage("Tokenize the corpus") as shown, storing(Tokens.kind, key) as folder:
        backend = tokenizer.learn(texts.sample(SAMPLE_BYTES / max(1, splits.bytes["train"])), size)
        shown(LEARNING_SHARE)
        save_tokenizer(backend, folder / "tokenizer")
        tokens = pack(
            texts, backend, folder, lambda share: shown(LEARNING_SHARE + (1 - LEARNING_SHARE) * share)
        )
        if tokens["train"] < MINIMUM_TRAIN_TOKENS:
            raise InputError(_too_little(splits, tokens["train"]))
        bytes_per_token = sum(splits.bytes.values()) / sum(tokens.values())
        shown.result = f"{sum(tokens.values()):,} tokens, {bytes_per_token:.2f} bytes each"
    return Tokens(
        key=key,
        splits=splits,
        vocabulary=backend.get_vocab_size(),
        tokens=tokens,
        bytes_per_token=bytes_per_token,
    )


def _size(splits: Splits, tokenizer: Tokenizer, clock: Clock) -> int:
    return tokenizer.size(splits.bytes["train"], clock.budget_seconds)


def _byte_level() -> Backend:
    """Bytes before any merge, split into words as GPT-2 does; each text is opened by the start token."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A {START} $B", special_tokens=[(START, 0)]
    )
    return backend


def _values(table: pa.Table) -> Callable[[str], list[Any]]:
    return lambda column: cast(list[Any], table[column].to_pylist())


def _chosen(name: str, share: float) -> bool:
    """By the id's last digits, which the split does not look at."""
    return int(name[-8:], 16) < share * 2**32


def _too_little(splits: Splits, train_tokens: int) -> str:
    present = splits.corpus.bytes
    wanted = present * MINIMUM_TRAIN_TOKENS / max(1, train_tokens)
    return (
        f"The train split holds {train_tokens:,} tokens; a training needs at least {MINIMUM_TRAIN_TOKENS:,}."
        f" Give about {wanted / 1000:,.0f} kB of text (there are {present / 1000:,.1f} kB)."
    )
