"""Every source gives documents, sets aside what it cannot read, and refuses at the door what cannot work."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tasks import formats
from tasks.artifacts import InputError
from tasks.documents import Document, SetAside
from tasks.library import PythonFunctions, PythonStdlib
from tasks.source import Files, Hub, Source

ROWS = [
    {"text": "First, with a comma.", "topic": "a"},
    {"text": "Zweite Zeile,\nmit Umbruch: ü", "topic": "b"},
]


def texts(source: Files | Hub) -> list[str]:
    return [document.text for document in source.documents() if isinstance(document, Document)]


def reasons(source: Files | Hub) -> list[str]:
    return [document.reason for document in source.documents() if isinstance(document, SetAside)]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["topic", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_tsv(path: Path) -> None:
    write_csv(path, "\t")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def pack(path: Path, ending: str) -> Path:
    data = path.read_bytes()
    packed = path.with_name(path.name + ending)
    packed.write_bytes(gzip.compress(data) if ending == ".gz" else zstandard.compress(data))
    return packed


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_tsv, write_parquet])
def test_tables_give_the_same_documents_in_every_format(
    tmp_path: Path, write: Callable[[Path], None], ending: str
) -> None:
    path = tmp_path / f"rows.{write.__name__.removeprefix('write_')}"
    write(path)
    source = Files(paths=(str(pack(path, ending) if ending else path),), label_column="topic")
    source.check()
    found = list(source.documents())
    assert [(d.text, d.label, d.position) for d in found if isinstance(d, Document)] == [
        (row["text"], row["topic"], position) for position, row in enumerate(ROWS)
    ]


def test_a_folder_gives_its_text_files_and_ignores_the_rest(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("a.txt", "b/c.md", "b/d.py", "picture.png", ".hidden/e.txt"):
        (tmp_path / name).write_text(name)
    source = Files(paths=(str(tmp_path),))
    assert texts(source) == ["a.txt", "b/c.md", "b/d.py"]
    assert [d.label for d in source.documents() if isinstance(d, Document)] == [tmp_path.name, "b", "b"]


def test_a_path_given_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("once")
    assert texts(Files(paths=(str(tmp_path), str(tmp_path / "*.txt")))) == ["once"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("latin.txt", "naïve café".encode("latin-1"), formats.NOT_UTF8),
        ("nul.txt", b"a\0b", formats.NUL_BYTES),
        ("huge.txt", b"x" * (formats.LARGEST_BYTES + 1), formats.TOO_LARGE),
        ("bomb.txt.gz", gzip.compress(bytes(200 * 1024**2), 1), formats.TOO_LARGE),
        ("cut.txt.gz", gzip.compress(bytes(range(256)) * 999)[:-20], formats.BROKEN),
        ("cut.txt.zst", zstandard.compress(b"some text, cut short " * 9)[:-5], formats.BROKEN),
        ("not.txt.gz", b"this is no archive", formats.BROKEN),
        ("not.parquet", b"this is no table", formats.BROKEN),
    ],
)
def test_a_bad_file_is_set_aside_and_the_rest_goes_on(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "zz-good.txt").write_text("good")
    source = Files(paths=(str(tmp_path),))
    source.check()
    assert (texts(source), reasons(source)) == (["good"], [reason])


LONG = b"y" * (50 * 1024**2)


@pytest.mark.parametrize(
    ("name", "lines", "reason"),
    [
        (
            "a.jsonl",
            [b'{"text": "one"}', b'{"text": "' + LONG + b'"}', b'{"text": "two"}'],
            formats.TOO_LARGE,
        ),
        ("a.jsonl", [b'{"text": "one"}', b"{text: no json}", b'{"text": "two"}'], formats.MALFORMED),
        ("a.jsonl", [b'{"text": "one"}', b'["text"]', b'{"text": "two"}'], formats.MALFORMED),
        ("a.jsonl", [b'{"text": "one"}', b"[" * 99_999, b'{"text": "two"}'], formats.MALFORMED),
        ("a.jsonl", [b'{"text": "one"}', b'{"text": "caf\xe9"}', b'{"text": "two"}'], formats.NOT_UTF8),
        ("a.jsonl", [b'{"text": "one"}', b'{"text": "\\ud800"}', b'{"text": "two"}'], formats.NOT_UTF8),
        ("a.jsonl", [b'{"text": "one"}', b'{"text": "a\\u0000b"}', b'{"text": "two"}'], formats.NUL_BYTES),
        ("a.jsonl", [b'{"text": "one"}', b'{"body": "x"}', b'{"text": "two"}'], formats.NO_TEXT),
        ("a.jsonl", [b'{"text": "one"}', b'{"text": 7}', b'{"text": "two"}'], formats.NO_TEXT),
        ("a.csv", [b"id,text", b"1,one", b"2," + LONG, b"3,two"], formats.TOO_LARGE),
        ("a.csv", [b"id,text", b"1,one", b"2,caf\xe9", b"3,two"], formats.NOT_UTF8),
        ("a.csv", [b"id,text", b"1,one", b"2,a\0b", b"3,two"], formats.NUL_BYTES),
        ("a.csv", [b"id,text", b"1,one", b"2,too,many", b"3,two"], formats.MALFORMED),
    ],
)
def test_a_bad_row_is_set_aside_and_the_rest_goes_on(
    tmp_path: Path, name: str, lines: list[bytes], reason: str
) -> None:
    (tmp_path / name).write_bytes(b"\n".join(lines) + b"\n")
    source = Files(paths=(str(tmp_path / name),))
    assert (texts(source), reasons(source)) == (["one", "two"], [reason])


def test_bad_utf8_in_parquet_costs_one_row(tmp_path: Path) -> None:
    data = pa.array([b"one", b"caf\xe9", None, b"two"], pa.binary())
    broken = pa.StringArray.from_buffers(4, data.buffers()[1], data.buffers()[2], data.buffers()[0])
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    source = Files(paths=(str(tmp_path),))
    assert texts(source) == ["one", "two"]
    assert reasons(source) == [formats.NOT_UTF8, formats.NO_TEXT]


def test_a_line_without_end_is_given_up_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SKIPPED_BYTES", 20 * 1024**2)
    lines = [b'{"text": "one"}', bytes(99 * 1024**2), b'{"text": "never reached"}\n']
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines), 1))
    source = Files(paths=(str(tmp_path),))
    assert (texts(source), reasons(source)) == (["one"], [formats.TOO_LARGE, formats.GIVEN_UP])


def test_rows_before_a_broken_end_are_kept(tmp_path: Path) -> None:
    rows = b"".join(b'{"text": "row %d"}\n' % number for number in range(50_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows)[:-5_000])
    source = Files(paths=(str(tmp_path),))
    assert len(texts(source)) > 1_000
    assert reasons(source)[-1] == formats.BROKEN


@given(
    lines=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=400), max_size=30
    )
)
@settings(max_examples=40, deadline=None)
def test_cutting_a_file_loses_nothing(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("cut") / "book.txt"
    path.write_bytes("\n".join(lines).encode())
    pieces = texts(Files(paths=(str(path),), cut_bytes=256))
    assert "".join(pieces) == "\n".join(lines)
    assert all(len(piece.encode()) >= 256 for piece in pieces[:-1])


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("marked", encoding="utf-8-sig")
    (tmp_path / "b.csv").write_text("text\nrow\n", encoding="utf-8-sig")
    assert texts(Files(paths=(str(tmp_path),))) == ["marked", "row"]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("missing.txt",), "does not exist"),
        (("empty",), "no file that can be read"),
        (("*.nothing",), "matches no file"),
        (("rows.jsonl",), "no column 'text'; it has body"),
    ],
)
def test_what_cannot_work_is_refused_at_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(InputError, match=words) as refusal:
        Files(paths=paths).check()
    assert paths[0] in str(refusal.value)


def test_the_fingerprint_follows_content_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    source = Files(paths=(str(path),))
    first = source.fingerprint()
    assert Files(paths=(str(path),)).fingerprint() == first
    assert Files(paths=(str(path),), cut_bytes=500).fingerprint() != first
    path.write_text("after!")
    assert source.fingerprint() != first


def test_the_standard_library_comes_without_its_tests() -> None:
    source = PythonStdlib()
    source.check()
    found = [document for document in source.documents() if isinstance(document, Document)]
    names = {document.source for document in found}
    assert {"json/decoder.py", "asyncio/tasks.py", "shlex.py"} <= names
    assert not [
        name for name in names if "site-packages" in name or "tests/" in name or name.startswith("test/")
    ]
    assert {d.label for d in found if d.source.startswith("json/")} == {"json"}
    assert len(found) > 400
    assert source.fingerprint() == PythonStdlib().fingerprint()


def test_functions_come_with_the_package_they_are_from() -> None:
    source = PythonFunctions(packages=5)
    source.check()
    found = [one for one in source.documents() if isinstance(one, Document)]
    counts = Counter(one.label for one in found)
    assert len(counts) == 5 and min(counts.values()) >= source.functions
    assert all(one.source.startswith(f"{one.label}") and one.group == one.source for one in found)
    assert all(one.text.lstrip().startswith(("def ", "async def ", "@")) for one in found)
    assert found == list(source.documents())
    assert source.fingerprint() != PythonFunctions().fingerprint()


def test_rare_packages_are_no_labels() -> None:
    most = PythonFunctions(packages=200, functions=300)
    counts = Counter(one.label for one in most.documents() if isinstance(one, Document))
    assert 2 <= len(counts) < 20 and min(counts.values()) >= 300


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_without_a_header_has_numbered_columns(tmp_path: Path, ending: str) -> None:
    mark = "," if ending == "csv" else "\t"
    (tmp_path / f"a.{ending}").write_text(f"good film{mark}1\nbad film{mark}0 \nwhat film{mark}\n")
    settings_ = {"paths": str(tmp_path), "header": False, "text_column": 1, "label_column": 2}
    source = Files.model_validate(settings_)
    source.check()
    rows = [(one.text, one.label) for one in source.documents() if isinstance(one, Document)]
    assert rows == [("good film", "1"), ("bad film", "0"), ("what film", None)]
    with pytest.raises(InputError, match="no column '3'; it has 1, 2"):
        Files.model_validate({**settings_, "label_column": 3}).check()


def test_whole_numbers_of_any_length_are_exact_labels(tmp_path: Path) -> None:
    names = [str(2**80 + number) for number in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "a", "label": {name}}}\n' for name in names))
    source = Files(paths=(str(tmp_path),), label_column="label", group_column="label")
    found = [one for one in source.documents() if isinstance(one, Document)]
    assert [one.label for one in found] == [one.group for one in found] == names


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl")
    (folder / "test.jsonl").write_text('{"text": "other side", "topic": "c"}\n')
    return folder


def test_a_dataset_folder_is_read_by_split_and_column(dataset: Path) -> None:
    source = Hub(name=str(dataset), label_column="topic")
    source.check()
    found = [document for document in source.documents() if isinstance(document, Document)]
    assert [(d.text, d.label) for d in found] == [(row["text"], row["topic"]) for row in ROWS]
    assert texts(Hub(name=str(dataset), split="test")) == ["other side"]
    assert texts(Hub(name=str(dataset), column="topic")) == ["a", "b"]


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"column": "body"}, "no column 'body'; it has text, topic"),
        ({"split": "dev"}, "dev"),
        ({"config": "german"}, "german"),
    ],
)
def test_a_dataset_that_cannot_be_opened_is_refused(
    dataset: Path, settings_: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Hub(name=str(dataset), **settings_).check()


def test_a_dataset_folder_that_grew_has_another_fingerprint(dataset: Path) -> None:
    source = Hub(name=str(dataset))
    first = source.fingerprint()
    (dataset / "train.jsonl").write_text('{"text": "new", "topic": "n"}\n')
    assert source.fingerprint() != first


def test_a_recipe_chooses_a_source_by_kind_and_misspellings_are_refused() -> None:
    family: TypeAdapter[Any] = TypeAdapter(Source)
    assert family.validate_python({"kind": "files", "paths": ["a.txt"]}) == Files(paths=("a.txt",))
    assert family.validate_python({"kind": "files", "paths": "a.txt"}) == Files(paths=("a.txt",))
    for wrong in (
        {"kind": "file", "paths": ["a"]},
        {"kind": "files", "path": ["a"]},
        {"kind": "files", "paths": []},
    ):
        with pytest.raises(ValidationError):
            family.validate_python(wrong)
