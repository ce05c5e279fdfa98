"""Text to measure the data's stages on: what the packages installed here say of themselves, or a file of yours."""

import json
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PROSE = ("*.dist-info/METADATA", "*.dist-info/**/LICENSE*", "**/*.md", "**/*.rst", "**/*.html", "**/*.txt")
DOCSTRING = re.compile(r'"""([^"]{200,}?)"""')
MODULE_SHARE = 0.3  # of the text; the rest is documents and docstrings
LONGEST = 20_000  # characters of a piece
VOCABULARY = 4096


def pieces(text: Path | None, seed: int = 0) -> Iterator[str]:
    """Documents without end, in a seeded order; where they are used up, once more, each with a number before it."""
    found = _of_file(text) if text is not None else _of_packages(random.Random(seed))
    yield from found
    time = 1
    while True:
        for piece in found:
            yield f"{time}. {piece}"
        time += 1


def _of_file(path: Path) -> list[str]:
    paragraphs = re.split(r"\n\s*\n", path.read_text(errors="replace"))
    return ["\n\n".join(paragraphs[start : start + 12]) for start in range(0, len(paragraphs), 12)]


def _of_packages(dice: random.Random) -> list[str]:
    packages = Path(sysconfig.get_path("purelib"))
    modules = sorted(packages.glob("*/*.py")) + sorted(packages.glob("*/*/*.py"))
    prose = [_read(path) for pattern in PROSE for path in sorted(packages.glob(pattern))]
    code = [_read(path) for path in modules]
    said = [piece for text in code for piece in DOCSTRING.findall(text)]
    few = dice.sample(code, int(MODULE_SHARE * len(code)))
    found = [text[:LONGEST] for text in (*prose, *said, *few) if len(text) > 100]
    dice.shuffle(found)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def write_texts(path: Path, text: Path | None, megabytes: float) -> int:
    """Documents as JSON lines; how many bytes of text they are."""
    size = 0
    with path.open("w") as file:
        for piece in pieces(text):
            if size >= megabytes * 1e6:
                return size
            file.write(json.dumps({"text": piece}) + "\n")
            size += len(piece.encode())
    return size


def write_corpus(folder: Path, text: Path | None, megabytes: float) -> int:
    """A corpus with its sides and a tokenizer learnt on it, as the stages hand them over; its bytes."""
    from tasks.spelling import BytePairs, Spelling

    texts, size = list[str](), 0
    for piece in pieces(text):
        texts.append(piece)
        size += len(piece.encode())
        if size >= megabytes * 1e6:
            break
    ids = [f"{number:016x}" for number in range(len(texts))]
    sizes = [len(one.encode()) for one in texts]
    columns = {
        "id": ids,
        "label": [None] * len(ids),
        "text": pa.array(texts, pa.large_string()),
        "bytes": sizes,
    }
    schema = pa.schema(
        {"id": pa.string(), "label": pa.string(), "text": pa.large_string(), "bytes": pa.int64()}
    )
    pq.write_table(pa.table(columns, schema=schema), folder / "documents.parquet", row_group_size=2000)
    sides = {"id": ids, "split": ["train"] * len(ids), "fold": [0] * len(ids)}
    pq.write_table(pa.table(sides), folder / "assignment.parquet")
    Spelling.learnt(BytePairs(), texts[:2000], VOCABULARY, "causal").save(folder / "tokenizer")
    return size
