"""Copies of labelled train documents in other words, made once and kept beside the tokens: see `training.copies`."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from prefect import task

from tasks import documents, packing, spelling
from tasks.artifacts import InputError, Tokens
from tasks.drafts import drafting, hand_over
from tasks.packing import Encoding, Packer, Texts, values
from tasks.spelling import Spelling
from tasks.store import cache_key, code_key, content_key, storing
from tasks.telemetry import stage
from training import augmentation, copies
from training.augmentation import Augmentation, Writing
from training.copies import FOLDER, Place, write_makers
from training.model import Pretrained
from training.rewriting import Rewriting

CHUNK = 64  # documents that are told in other words at once; a kill takes no more with it
CONTENT = {".json", ".txt", ".model", ".spm", ".safetensors"}  # of a checkpoint, all that its copies hang on

Makers = tuple[Writing, ...]


class Row(NamedTuple):
    """A train document."""

    text: str
    label: str | None
    fold: int


def makers_of(members: Iterable[Augmentation]) -> Makers:
    """Those that make copies, each once, in an order that is always the same."""
    found = {member.maker(): member for member in members if isinstance(member, Rewriting)}
    return tuple(found[name] for name in sorted(found))


def with_copies(tokens: Tokens, members: Iterable[Augmentation], device: str = "cpu") -> Tokens:
    """The same tokens, with copies of the train documents beside them for those members that read copies.

    Raises InputError as `write_copies` does.
    """
    makers = makers_of(members)
    return write_copies(tokens, makers, device) if makers else tokens


def augment(
    texts: Texts,
    makers: Makers,
    encoding: Encoding,
    packer: Packer,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Writes every maker's copies of all train documents into the packer's folder; what lies there is gone on with.

    The files are the same after any number of kills. Raises InputError where a maker has not what it needs.
    """
    sides = pq.read_table(texts.assignment, columns=["split"])["split"].to_pylist()
    each, total = sides.count("train"), sum(maker.copies for maker in makers) * sides.count("train")
    places, done = dict[str, Place](), 0
    for maker in makers:
        places[maker.maker()] = Place(each * sum(place.each for place in places.values()), maker.copies)
        rewriter = None
        for number, rows in enumerate(_chunks(texts)):
            done += 1
            if done <= packer.done.batches:
                continue
            if rewriter is None:
                try:
                    rewriter = maker.rewriter(device)
                except ValueError as problem:
                    raise InputError(f"learning.augmentation, {maker.kind}: {problem}") from None
            dice = (np.random.default_rng([number, copy]) for copy in range(maker.copies))
            told = [rewriter([row.text for row in rows], one) for one in dice]
            _add(packer, encoding, rows, told)
            packer.done.batches = done
            packer.mark()
            progress(packer.done.documents["train"] / total)
    packer.finish()
    write_makers(packer.folder, places)


def _chunks(texts: Texts) -> Iterator[list[Row]]:
    """The train documents, in the order of `train.npy`."""
    for batch in texts.batches(["text", "label"]):
        columns = map(values(batch), ("split", *Row._fields))
        rows = [Row(*row) for side, *row in zip(*columns, strict=True) if side == "train"]
        yield from (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _add(packer: Packer, encoding: Encoding, rows: Sequence[Row], told: Sequence[Sequence[str]]) -> None:
    """Each document's copies, one after the other; a copy that came out blank is the document itself."""
    copied = [
        other if other.strip() else row.text
        for row, *others in zip(rows, *told, strict=True)
        for other in others
    ]
    encoded = encoding(copied)
    sizes = [len(text.encode()) for text in copied]
    known = np.repeat([(row.fold, packer.label(row.label)) for row in rows], len(told), axis=0)
    packer.add_all("train", encoded.ids, np.column_stack([encoded.lengths, sizes, known]))


def copies_key(tokens: Tokens, makers: Makers, device: str) -> str:
    """Names tokens with copies by the tokens, the makers with the files that they read, and the code."""
    read = [_content(source) for maker in makers for source in maker.sources()]
    code = code_key(sys.modules[__name__], augmentation, copies, packing, spelling)
    return content_key(tokens.key, [maker.maker() for maker in makers], read, code)


def _content(source: str) -> list[str]:
    """A file or a folder by what is in it, anything else by its name, as the Hub has it."""
    place = Path(source).expanduser()
    files = documents.below(place, CONTENT) if place.is_dir() else [place] if place.is_file() else []
    return [source] if not files else [f"{path.name} {documents.digest(path)}" for path in files]


@task(
    name="Augment the corpus",
    task_run_name="augment-{tokens.key}",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=cache_key(Tokens, copies_key),
)
def write_copies(tokens: Tokens, makers: Makers, device: str) -> Tokens:
    """The tokens with the makers' copies beside them, in the store.

    Raises InputError where a maker has not what it needs.
    """
    key = copies_key(tokens, makers, device)
    splits = tokens.splits
    texts = Texts.of(splits)
    spelt = Spelling.of_checkpoint(Pretrained(name=str(tokens.folder / "tokenizer")), "classification")
    with stage("Augment the corpus") as shown:
        with drafting(Tokens.kind, key) as place, storing(Tokens.kind, key) as folder:
            (place / FOLDER).mkdir(exist_ok=True)
            special = spelt.start_token, spelt.mask_token
            with Packer(place / FOLDER, tokens.vocabulary, *special, tokens.labels) as packer:
                augment(texts, makers, spelt.encoding(packer.dtype.name), packer, device, shown)
            shutil.copytree(
                tokens.folder,
                folder,
                copy_function=_linked,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("complete"),
            )
            hand_over(place, folder)
        made = packer.done
        shown.result = f"{made.documents['train']:,} copies of {splits.documents['train']:,} train documents"
    return tokens.model_copy(
        update={"key": key, "copies": {f"{maker.kind} {maker.maker()}": maker.copies for maker in makers}}
    )


def _linked(source: str, to: str) -> None:
    """The same bytes under another name; copied where the file system has no links."""
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)
