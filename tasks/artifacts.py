"""What the stages hand to each other: small frozen records; the bytes stay in the store."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from tasks import home


class InputError(ValueError):
    """Something that the user gave cannot work; the message says what, where and what to do."""


class Record(BaseModel):
    """What a stage hands over: a content key and its own report, never the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]
    key: str

    @property
    def folder(self) -> Path:
        """Where this record's bytes lie in the store of this machine."""
        return home.store(self.kind) / self.key


class Corpus(Record):
    """Cleaned documents: `documents.parquet` with id, source, position, group, label, language, text, bytes."""

    kind: ClassVar[str] = "corpus"
    source: str  # one line that a person recognises
    documents_read: int
    documents: int
    bytes: int
    dropped: dict[str, int]  # reason -> documents; documents + sum(dropped) == documents_read
    changed: dict[str, int]  # reason -> documents


class Splits(Record):
    """Sides and folds: `assignment.parquet` with id, split, fold, cluster, in the corpus' order."""

    kind: ClassVar[str] = "splits"
    corpus: Corpus
    documents: dict[str, int]  # train, validation, test -> documents
    bytes: dict[str, int]  # the same -> UTF-8 bytes
    folds: int


class Tokens(Record):
    """Packed shards as `training.data.Shards` reads them, `tokenizer/`, and `documents.parquet`."""

    kind: ClassVar[str] = "tokens"
    splits: Splits
    vocabulary: int
    tokens: dict[str, int]  # train, validation, test -> tokens
    bytes_per_token: float


def content_key(*parts: Any) -> str:
    """16 hexadecimal digits that name `parts` (JSON-like values and pydantic models) by content."""
    text = json.dumps(parts, sort_keys=True, default=lambda value: value.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_key(*modules: ModuleType) -> str:
    """Names the source code of `modules`: a changed file is a changed key."""
    return content_key(*(Path(str(module.__file__)).read_text() for module in modules))


def stored(kind: str, key: str) -> bool:
    """Whether the store holds finished bytes under this key."""
    return (home.store(kind) / key / "complete").exists()


@contextmanager
def storing(kind: str, key: str) -> Iterator[Path]:
    """A folder to fill; it appears under its key all at once, when the block ends well.

    Two processes that store the same key write the same bytes: the first wins.
    """
    final = home.store(kind) / key
    draft = final.with_name(f".{key}-{uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    try:
        yield draft
        (draft / "complete").touch()
        if final.exists() and not stored(kind, key):
            shutil.rmtree(final)
        try:
            os.rename(draft, final)
        except OSError:
            if not stored(kind, key):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def describe(record: BaseModel) -> Mapping[str, Any]:
    """The plain fields of a record, without the records inside it."""
    return {k: v for k, v in record.model_dump(mode="json").items() if k != "key" and not isinstance(getattr(record, k), Record)}
