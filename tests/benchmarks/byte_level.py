"""A text as bytes: 256 entries and the mark that opens a document, the same tokens for every system.

The text is cut at line ends into documents of about 4 kB. The first 90 % of them train; of the rest,
every fifth serves to look at during the training, and what is left is scored at its end. The
baselines read the opening mark as one more symbol, so all systems predict the same tokens from the
same context, and one function scores them all.
"""

import hashlib
import json
import sysconfig
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from training.data import Ids, Shards, Slice, Split

START, VOCABULARY = 256, 257
TEXT_BYTES = 1_000_000
MOST_BYTES = 2_000_000  # of a file; what is beyond is left out
DOCUMENT_BYTES = 4096
LOOK_BYTES = 256  # a document to look at is cut to pieces of this size, each scored alone
LOOKED_AT_BYTES = 10_240
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
LARGEST_MODULE = 100_000  # beyond are tables more than programs


def stdlib_text(size: int = TEXT_BYTES) -> bytes:
    """The first `size` bytes of this Python's own library, module after module in the order of hashed names."""
    library = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(library).as_posix() for path in library.rglob("*.py")]
    names = [name for name in names if not LEFT_OUT & set(name.split("/"))]
    text = b""
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        path = library / name
        if path.stat().st_size <= LARGEST_MODULE:
            text += path.read_bytes()
        if len(text) >= size:
            break
    return text[:size]


def read_text(path: Path | None, size: int = TEXT_BYTES) -> bytes:
    """The text of a file, or `size` bytes of the standard library; raises SystemExit where it cannot serve."""
    if path is None:
        return stdlib_text(size)
    if not path.is_file():
        raise SystemExit(f"--text: there is no file {path}")
    text = path.read_bytes()[:MOST_BYTES]
    if len(text) < 40 * DOCUMENT_BYTES:
        raise SystemExit(
            f"--text: {path} holds {len(text):,} bytes; at least {40 * DOCUMENT_BYTES:,} are needed"
        )
    return text


def digest(text: bytes) -> str:
    """16 hexadecimal digits of the text's SHA-256."""
    return hashlib.sha256(text).hexdigest()[:16]


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    """The text, cut after the first line end from `size` bytes on, and at twice that without one."""
    cuts = [0]
    while cuts[-1] < len(text):
        end = text.find(b"\n", cuts[-1] + size, cuts[-1] + 2 * size)
        cuts.append(min(len(text), end + 1 if end >= 0 else cuts[-1] + 2 * size))
    return (text[start:end] for start, end in pairwise(cuts))


def write_shards(folder: Path, text: bytes, document_bytes: int = DOCUMENT_BYTES) -> Shards:
    """The text's shards: `train`, `validation` to look at, `test` to be scored."""
    documents = list(pieces(text, document_bytes))
    held_out = documents[-max(5, len(documents) // 10) :]
    looked_at = b"".join(held_out[::5])[:LOOKED_AT_BYTES]
    sides: dict[Split, Sequence[bytes]] = {
        "train": documents[: -len(held_out)],
        "validation": [
            looked_at[at : at + LOOK_BYTES] for at in range(0, len(looked_at) - LOOK_BYTES + 1, LOOK_BYTES)
        ],
        "test": [document for number, document in enumerate(held_out) if number % 5],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer").mkdir(exist_ok=True)  # bytes need none
    for side, members in sides.items():
        tokens = [np.frombuffer(member, np.uint8).astype(np.uint16) for member in members]
        opened = [np.concatenate([np.array([START], np.uint16), ids]) for ids in tokens]
        np.concatenate(opened).tofile(folder / f"{side}.bin")
        lengths = np.array([len(ids) for ids in opened])
        offsets = np.cumsum(lengths) - lengths
        folds, labels = np.zeros_like(lengths), np.full_like(lengths, -1)
        np.save(folder / f"{side}.npy", np.stack([offsets, lengths, lengths - 1, folds, labels], axis=1))
    header = {
        "dtype": "uint16",
        "vocabulary": VOCABULARY,
        "start_token": START,
        "mask_token": None,
        "labels": [],
    }
    (folder / "shards.json").write_text(json.dumps(header))
    return Shards(folder)


def documents(shards: Shards, side: Split) -> tuple[list[Ids], float]:
    """The token ids of a side's documents, and their bytes in all."""
    whole = Slice(shards, side).texts()
    return whole.documents, float(whole.weights.sum())
