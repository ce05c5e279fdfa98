"""What a model answered, many texts at once: in order, on the terminal or into a file, with a bar while it lasts."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tasks.artifacts import InputError
from tasks.asked import PIPE, Each, Piped, Text, batches, texts_in
from tasks.documents import Document

Answer = dict[str, Any]  # of one text; one with an `error` is none
Write = Callable[[Answer], None]
Line = Callable[[Answer], str]

PAIRS = pa.list_(pa.struct([("text", pa.string()), ("probability", pa.float64())]))
KINDS: dict[str, pa.DataType] = {
    "source": pa.string(),
    "position": pa.int64(),
    "prompt": pa.string(),
    "completion": pa.string(),
    "text": pa.string(),
    "label": pa.string(),
    "probability": pa.float64(),
    "labels": PAIRS,
    "gaps": pa.list_(PAIRS),
    "error": pa.string(),
}
# What an answer of each kind of model holds, in a table.
COLUMNS = {
    "causal": ("source", "position", "prompt", "completion", "error"),
    "masked": ("source", "position", "text", "gaps", "error"),
    "classification": ("source", "position", "text", "label", "probability", "labels", "error"),
}
ENDINGS = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Request:
    """Which texts to answer, and where to."""

    files: tuple[str, ...] = ()  # none: what is piped in
    column: str = "text"
    each: Each | None = None
    piped: Piped = "txt"
    as_json: bool = False
    out: Path | None = None

    def texts(self, command: str) -> Iterator[Text]:
        """The texts. Raises InputError where there are none, as nothing is piped in."""
        if not self.files and sys.stdin.isatty():
            raise InputError(
                f"there is no text: write it behind `shoestring {command}`, name a --file, or pipe lines in"
            )
        return texts_in(self.files or (PIPE,), self.column, self.each, self.piped)


def answer_all(
    request: Request, command: str, head: str, ask: Callable[[Sequence[str]], list[Answer]], line: Line
) -> bool:
    """Asks of all texts, in batches, and writes each answer with where its text stands; whether any has one.

    What could not be read is an answer with an `error`, so that nothing is lost and the order is kept.
    Raises InputError as `Request.texts`, `texts_in` and `written_to` do.
    """
    answered, failed = 0, 0
    texts = request.texts(command)
    bar = request.out is not None or not sys.stdout.isatty()  # else the answers themselves show how far it is
    with written_to(request.out, request.as_json, head, line) as write, _progress(bar) as advance:
        for batch in batches(texts):
            found = iter(ask([text.text for text in batch if isinstance(text, Document)]))
            for text in batch:
                said = next(found) if isinstance(text, Document) else {"text": None, "error": text.reason}
                write({"source": text.source, "position": text.position, **said})
                answered += 1
                failed += "error" in said
                if "error" in said and failed == 1:
                    problem = f"{text.source}, text {text.position + 1}: {said['error']}"
            advance(len(batch))
    if failed:
        print(f"{failed:,} of {answered:,} texts have no answer; the first is {problem}", file=sys.stderr)
    return failed < answered or not answered


@contextmanager
def _progress(wanted: bool) -> Iterator[Callable[[int], None]]:
    """A count of texts on standard error, where that is a terminal and nothing else is drawn on it."""
    console = Console(stderr=True)
    if not wanted or not console.is_terminal:
        yield lambda count: None
        return
    columns = TextColumn("texts"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("texts", total=None)
        yield lambda count: shown.advance(task, count)


@contextmanager
def written_to(out: Path | None, as_json: bool, head: str, line: Line) -> Iterator[Write]:
    """What takes the answers: a file by its ending, JSON lines, or lines as `line` makes them.

    A file appears when all is written. Raises InputError where it is there already, or has another ending.
    """
    if out is None:
        tell = json.dumps if as_json else line
        yield lambda said: print(tell(said), flush=True)
        return
    if out.suffix not in ENDINGS:
        raise InputError(f"--out {out}: name a file that ends in {', '.join(ENDINGS)}")
    if out.exists():
        raise InputError(f"--out {out} is there already: name a new file")
    draft = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[out.suffix](
            draft, COLUMNS[head]
        ) as write:
            yield write
        draft.replace(out)
    except PermissionError as problem:
        raise InputError(f"--out {out} cannot be written ({problem.strerror}): name another") from None
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda said: print(json.dumps(said, ensure_ascii=False), file=file)


@contextmanager
def _csv(path: Path, columns: Sequence[str]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()

        def write(said: Answer) -> None:
            cells = {name: said.get(name) for name in columns}
            told = partial(json.dumps, ensure_ascii=False)
            table.writerow({n: told(one) if isinstance(one, list) else one for n, one in cells.items()})

        yield write


@contextmanager
def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Write]:
    schema = pa.schema([(name, KINDS[name]) for name in columns])
    held: list[Answer] = []

    def flush() -> None:
        table.write_table(pa.Table.from_pylist(held, schema=schema))
        held.clear()

    def write(said: Answer) -> None:
        row = {name: said.get(name) for name in columns}
        if "labels" in said:
            row["labels"] = _named(said["labels"])
        if "gaps" in said:
            row["gaps"] = [_named(gap) for gap in said["gaps"]]
        held.append(row)
        if len(held) == 10_000:  # rows of a group
            flush()

    with pq.ParquetWriter(path, schema) as table:
        yield write
        flush()


def _named(ranked: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"text": text, "probability": chance} for text, chance in ranked]
