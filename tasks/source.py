"""Where documents come from: this Python's own library, files, or a dataset of the Hub."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tasks import formats
from tasks.artifacts import InputError, content_key
from tasks.documents import Document, SetAside, below, digest, document
from tasks.formats import Reason
from tasks.library import PythonFunctions, PythonStdlib
from training.config import AnyOf, Choice

CHECKED_FILES = 20  # tables whose columns are looked at before any compute


# A column's name; one that is a number may be written as such.
Column = Annotated[str, BeforeValidator(lambda name: str(name) if isinstance(name, int) else name)]


class Files(Choice):
    """Your own files: whole text files, and the rows of tables; all may be packed with gzip or zstd."""

    kind: Literal["files"] = "files"
    paths: Annotated[
        tuple[str, ...], BeforeValidator(lambda paths: (paths,) if isinstance(paths, str) else paths)
    ] = Field(
        min_length=1,
        description="Files, folders and globs. In folders, text files (txt, md, py, ...) and tables (jsonl,"
        " csv, tsv, parquet) are read, others ignored; a file named outright is read whatever its ending.",
    )
    text_column: Column = Field(
        default="text", description="Column of a table that holds the text; rows without it are set aside."
    )
    label_column: Column | None = Field(
        default=None,
        description="Column that holds the label; text files are labelled with their folder's name.",
    )
    header: bool = Field(
        default=True,
        description="The first line of a csv or tsv file names its columns. Off: it is a row like the others,"
        " and columns are called 1, 2, ...",
    )
    cut_bytes: int | None = Field(
        default=None,
        ge=256,
        le=formats.LARGEST_BYTES // 2,
        description="Cuts text files at blank lines into documents of about this size. Without it a single"
        " book is one document, which cannot be split, and a file over 16 MiB is set aside.",
    )

    def documents(self) -> Iterator[Document | SetAside]:
        """Each text file, piece of one, or row of a table, in the order of the paths' names."""
        for path in self._files():
            read = self._rows(path) if formats.ending(path) in formats.TABLES else self._texts(path)
            for position, (group, label, value) in enumerate(read):
                yield document(path.as_posix(), position, group, label, value)

    def fingerprint(self) -> str:
        """Names the settings and the content of all files; one pass over changed files."""
        return content_key(self, [(path.as_posix(), digest(path)) for path in self._files()])

    def describe(self) -> str:
        """One line that a person recognises."""
        labels = f", labels in column {self.label_column}" if self.label_column else ""
        return "files: " + ", ".join(self.paths) + labels

    def size_bytes(self) -> int | None:
        """Bytes on disk, for progress; packed files unpack to more."""
        return sum(path.stat().st_size for path in self._files())

    def check(self, labelled: bool = False) -> None:
        """Raises InputError for a missing path, a folder or glob without files, or a missing column.

        `labelled`: also for tables whose column of labels is not named.
        """
        tables = [path for path in self._files() if formats.ending(path) in formats.TABLES]
        for path in tables[:CHECKED_FILES]:
            names = formats.columns(path, self.header)
            _check_columns(str(path), names, self._columns())
            if labelled and self.label_column is None:
                raise InputError(_no_labels(str(path), names))

    def _files(self) -> list[Path]:
        return sorted({path for given in self.paths for path in _matches(given)})

    def _texts(self, path: Path) -> Iterator[tuple[str, str, object]]:
        folder = path.resolve().parent.name
        cut = self.cut_bytes
        for value in [formats.whole(path)] if cut is None else formats.pieces(path, cut):
            yield folder, folder, value

    def _rows(self, path: Path) -> Iterator[tuple[str, object, object]]:
        for row in formats.rows(path, self._columns(), self.header):
            if isinstance(row, Reason):
                yield path.name, None, row
            else:
                yield path.name, row.get(self.label_column or ""), row.get(self.text_column)

    def _columns(self) -> list[str]:
        return [self.text_column] + ([self.label_column] if self.label_column else [])


class HubError(ConnectionError):
    """The Hub did not answer as it should; trying again may help."""


class Hub(Choice):
    """A dataset of the Hugging Face Hub, or a folder laid out as one, streamed row by row."""

    kind: Literal["hub"] = "hub"
    name: str = Field(
        min_length=1, description="Dataset, such as roneneldan/TinyStories, or a folder on disk."
    )
    config: str | None = Field(default=None, description="Its configuration; needed where it has several.")
    split: str = Field(
        default="train", min_length=1, description="Its split; Shoestring makes its own splits of it."
    )
    revision: str | None = Field(
        default=None,
        description="Commit, tag or branch. Without it, what was read once is reused though the data changed.",
    )
    column: str = Field(
        default="text", description="Column that holds the text; rows without it are set aside."
    )
    label_column: str | None = Field(default=None, description="Column that holds the label.")

    def documents(self) -> Iterator[Document | SetAside]:
        """Each row. Raises HubError where the stream breaks off, so that nothing is lost unnoticed."""
        rows, names = self._stream()
        for position, row in enumerate(_answered(self.name, rows)):
            label = row.get(self.label_column or "")
            if names and isinstance(label, int):
                label = names[label] if label >= 0 else None
            yield document(self.name, position, self.config or self.name, label, row.get(self.column))

    def fingerprint(self) -> str:
        """Names the coordinates, and the content where it is a folder on disk."""
        folder = Path(self.name)
        files = below(folder, None) if folder.is_dir() else []
        return content_key(self, [(path.relative_to(folder).as_posix(), digest(path)) for path in files])

    def describe(self) -> str:
        """One line that a person recognises."""
        where = [self.name, self.config, self.split]
        return "dataset " + " / ".join(part for part in where if part) + f" @ {self.revision or 'newest'}"

    def size_bytes(self) -> int | None:
        """None: a stream's length is not known beforehand."""
        return None

    def check(self, labelled: bool = False) -> None:
        """Raises InputError for a wrong name, configuration, split or column; reads one row.

        `labelled`: also where the column of labels is not named.
        """
        rows, _ = self._stream()
        first = next(_answered(self.name, rows), None)
        if first is None:
            raise InputError(f"{self.describe()} has no rows: choose another source.split.")
        wanted = [self.column] + ([self.label_column] if self.label_column else [])
        _check_columns(self.describe(), list(first), wanted)
        if labelled and self.label_column is None:
            raise InputError(_no_labels(self.describe(), list(first)))

    def _stream(self) -> tuple[Iterable[dict[str, Any]], list[str] | None]:
        import datasets  # takes a second, and only this source needs it

        if self.name.startswith((".", "/", "~")) and not Path(self.name).is_dir():
            raise InputError(f"source.name: there is no dataset folder {self.name}.")
        try:
            rows = datasets.load_dataset(
                self.name, self.config, split=self.split, revision=self.revision, streaming=True
            )
        except (ValueError, FileNotFoundError) as error:
            raise InputError(f"source: {self.describe()} cannot be opened: {error}") from error
        except OSError as error:
            raise HubError(f"{self.describe()}: {error}") from error
        feature = (rows.features or {}).get(self.label_column)
        return rows, getattr(feature, "names", None)


def _answered(name: str, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows; whatever a reader or the network raises meanwhile becomes a HubError."""
    try:
        yield from rows
    except Exception as error:  # datasets, fsspec, pyarrow and the http client each have their own
        raise HubError(f"dataset {name} broke off: {type(error).__name__}: {error}") from error


def _matches(given: str) -> list[Path]:
    """The files that one entry of `paths` means; raises InputError where there are none."""
    path = Path(given).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = below(path, formats.TABLES | formats.PLAIN)
        missing = (
            f"holds no file that can be read (such as {', '.join(sorted(formats.TABLES))}, .txt, .md, .py)"
        )
    elif glob.has_magic(given):
        named = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (absolute ones too)
        found, missing = [match for match in named if match.is_file()], "matches no file"
    else:
        found, missing = [], "does not exist"
    if not found:
        raise InputError(f"source.paths: {given} {missing}. Paths start from {Path.cwd()}; give another.")
    return found


def _no_labels(where: str, columns: list[str] | None) -> str:
    there = f"; there are {', '.join(columns)}" if columns else ""
    return f"To classify, labels are needed: name their column in {where} as source.label_column{there}."


def _check_columns(where: str, columns: list[str] | None, wanted: list[str]) -> None:
    for name in wanted:
        if columns is not None and name not in columns:
            raise InputError(
                f"{where} has no column {name!r}; it has {', '.join(columns) or 'none'}."
                " Name the column in the source's settings."
            )


Source = Annotated[PythonStdlib | PythonFunctions | Files | Hub, Field(discriminator="kind"), AnyOf()]
