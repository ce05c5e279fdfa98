"""Where documents come from: this Python's own library, files, or a dataset of the Hub."""

from collections.abc import Iterable, Iterator
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from tasks import archives, formats, places, tables
from tasks.archives import Part
from tasks.artifacts import InputError
from tasks.documents import Document, SetAside, below, digest, document, name_in
from tasks.formats import Reason
from tasks.library import PythonFunctions, PythonStdlib
from tasks.places import Place, StoreError
from tasks.secrets import NO_LOGIN
from tasks.store import content_key
from tasks.webpages import PageReader
from training.config import AnyOf, Choice

NAMING_COLUMNS = formats.TABLES | formats.ARCHIVES
CHECKED_FILES = 20  # of those, whose columns are looked at before any compute
CHECKED_BYTES = 4 * 1024**2  # of a packed one's start


Address = Annotated[str, WithJsonSchema({"type": "string", "pattern": NO_LOGIN})]
# A column's name; one that is a number may be written as such.
Column = Annotated[str, BeforeValidator(lambda name: str(name) if isinstance(name, int) else name)]


class Files(Choice):
    """Your own files: text files, web pages, the rows of tables; packed with gzip, zstd, tar or zip, and in stores."""

    kind: Literal["files"] = "files"
    paths: Annotated[
        tuple[Address, ...], BeforeValidator(lambda paths: (paths,) if isinstance(paths, str) else paths)
    ] = Field(
        min_length=1,
        description="Files, folders, globs, and such in stores (s3://bucket/folder). In folders and archives (tar,"
        " zip), text files (txt, md, py, ...), web pages and tables (jsonl, csv, tsv, parquet) are read, others"
        " ignored; a file named outright is read whatever its ending.",
    )
    text_column: Column = Field(
        default="text", description="Column of a table that holds the text; rows without it are set aside."
    )
    label_column: Column | None = Field(
        default=None,
        description="Column that holds the label; text files are labelled with their folder's name.",
    )
    group_column: Column | None = Field(
        default=None,
        description="Column that says what a row belongs to, such as its author; a group stays on one side of the"
        " split. Without it, pieces of one work may be both learnt from and judged by.",
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
        description="Cuts text files and pages at blank lines into documents of about this size. Without it a single"
        " book is one document, which cannot be split, and a file over 16 MiB is set aside.",
    )

    def documents(self) -> Iterator[Document | SetAside]:
        """Each text file, page, piece of one, or row of a table, in the order of the paths' names.

        Raises StoreError where a store does not answer, so that nothing is lost unnoticed.
        """
        with PageReader() as pages:
            for place in places.find(self.paths):
                if isinstance(place, SetAside):
                    yield place
                else:
                    yield from self._documents(place, pages)

    def fingerprint(self) -> str:
        """Names the settings and the content of all files; one pass over changed files, none over stores."""
        return content_key(self, [(place.name, place.fingerprint()) for place in self._places()])

    def describe(self) -> str:
        """One line that a person recognises."""
        labels = f", labels in column {self.label_column}" if self.label_column else ""
        return "files: " + ", ".join(map(places.named, self.paths)) + labels

    def size_bytes(self) -> int | None:
        """Bytes of the files, for progress; packed ones unpack to more."""
        return sum(place.size_bytes() or 0 for place in self._places())

    def check(self, labelled: bool = False) -> None:
        """Raises InputError for a missing path, a folder or glob without files, or a missing column.

        `labelled`: also for tables whose column of labels is not named.
        """
        try:
            named = [place for place in self._places() if formats.ending(place.name) in NAMING_COLUMNS]
            for place in named[:CHECKED_FILES]:
                for name, columns in _first_columns(place, self.header):
                    _check_columns(name, columns, self._columns())
                    if labelled and self.label_column is None:
                        raise InputError(_no_labels(name, columns))
        except StoreError as error:
            raise InputError(
                f"source.paths: {error} Look at the address, and whether it can be reached."
            ) from None

    def _places(self) -> list[Place]:
        return [place for place in places.find(self.paths) if not isinstance(place, SetAside)]

    def _documents(self, place: Place, pages: PageReader) -> Iterator[Document | SetAside]:
        for part in formats.until_broken(parts_in(place)):
            if isinstance(part, Reason):
                yield SetAside(place.name, 0, part)
                continue
            for position, (group, label, value) in enumerate(self._read(part, pages)):
                yield document(part.name, position, group, label, value)

    def _read(self, part: Part, pages: PageReader) -> Iterator[tuple[str, object, object]]:
        if isinstance(part.stream, Reason):
            yield part.folder, None, part.stream
        elif part.ending in formats.TABLES:
            yield from self._rows(part, part.stream)
        else:
            texts = pages.texts if part.ending in formats.PAGES else formats.texts
            for value in texts(part.stream, self.cut_bytes):
                yield part.folder, part.folder, value

    def _rows(self, part: Part, stream: BufferedReader) -> Iterator[tuple[str, object, object]]:
        file = part.name.rpartition("/")[2]
        for position, row in enumerate(tables.rows(stream, part.ending, self._columns(), self.header)):
            if isinstance(row, Reason):
                yield file, None, row
                continue
            group = file if self.group_column is None else name_in(row.get(self.group_column))
            yield (
                group or f"{part.name}:{position}",
                row.get(self.label_column or ""),
                row.get(self.text_column),
            )

    def _columns(self) -> list[str]:
        named = [self.text_column, self.label_column, self.group_column]
        return list(dict.fromkeys(name for name in named if name))


def parts_in(place: Place) -> Iterator[Part]:
    """What lies in a file: itself, or an archive's members. Raises OSError where it breaks off."""
    with place.open() as file:
        yield from archives.parts(place.name, place.folder, file, place.size_bytes())


def _first_columns(place: Place, header: bool) -> Iterator[tuple[str, list[str] | None]]:
    """A table, or the first one in an archive, if any, with its columns; None where its start does not say."""
    try:
        with place.open() as file:
            at_once = formats.packing(place.name) is None and file.seekable()
            start = file if at_once else BytesIO(file.read(CHECKED_BYTES) or b"")
            for part in archives.parts(place.name, place.folder, start, None):
                if part.ending in formats.TABLES and not isinstance(part.stream, Reason):
                    yield part.name, tables.columns(part.stream, part.ending, header)
                    return
    except ConnectionError:
        raise
    except OSError:  # which documents() sets aside
        if formats.ending(place.name) in formats.TABLES:
            yield place.name, None


class HubError(StoreError):
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


def _no_labels(where: str, columns: list[str] | None) -> str:
    there = f"; there are {', '.join(columns)}" if columns else ""
    return f"To classify, labels are needed: name their column in {where} as source.label_column{there}."


def _check_columns(where: str, columns: list[str] | None, wanted: list[str]) -> None:
    for name in wanted:
        if columns is not None and name not in columns:
            raise InputError(
                f"{where} has no column {name!r}; it has {', '.join(columns) or 'none'}."
                " Name the column in the source's settings, or with --column."
            )


Source = Annotated[
    PythonStdlib | PythonFunctions | Files | Hub,
    Field(discriminator="kind", description="Where the text comes from that is learnt and judged on."),
    AnyOf(),
]
