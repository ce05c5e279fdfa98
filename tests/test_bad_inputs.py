"""Files as they come: each bad one is set aside with its reason, or refused in one line, and the rest is read."""

import gzip
import io
import random
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tasks import archives, formats, webpages
from tasks.documents import Document, SetAside
from tasks.source import Files
from tests.test_reading import write_tar, write_zip

GOOD = "zz-good.txt"  # beside the bad one, in its folder


def read(folder: Path, **settings: object) -> tuple[list[str], dict[str, int]]:
    """Texts other than the good one, which must be there, and how often each reason was given."""
    (folder / GOOD).write_text("good")
    source = Files.model_validate({"paths": str(folder), **settings})
    source.check()
    found = list(source.documents())
    texts = [one.text for one in found if isinstance(one, Document)]
    assert texts.pop() == "good"
    return texts, dict(Counter(one.reason for one in found if isinstance(one, SetAside)))


NOT_TEXT = {
    "overlong": (b"a \xc0\xaf b", formats.NOT_UTF8),
    "lone continuation": (b"a \x80 b", formats.NOT_UTF8),
    "truncated sequence": ("a €".encode()[:-1], formats.NOT_UTF8),
    "surrogate": (b"a \xed\xa0\x80 b", formats.NOT_UTF8),
    "above U+10FFFF": (b"a \xf4\x90\x80\x80 b", formats.NOT_UTF8),
    "latin-1": ("naïve".encode("latin-1"), formats.NOT_UTF8),
    "NUL": (b"a \0 b", formats.NUL_BYTES),
    "UTF-16 without a mark": ("text".encode("utf-16-le"), formats.NUL_BYTES),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", formats.NOT_UTF8),
    "program": (b"\x7fELF\x02\x01\x01\0\0\0", formats.NUL_BYTES),
    "truncated UTF-16": (b"\xff\xfea\0b", formats.NOT_UTF8),
    "lone surrogate of UTF-16": (b"\xff\xfe\x00\xd8a\0", formats.NOT_UTF8),
    "UTF-32 beyond Unicode": (b"\xff\xfe\0\0\0\0\x11\0", formats.NOT_UTF8),
}


@pytest.mark.parametrize("case", NOT_TEXT)
@pytest.mark.parametrize("cut_bytes", [None, 256], ids=["whole", "in pieces"])
def test_what_is_no_text_is_set_aside(tmp_path: Path, case: str, cut_bytes: int | None) -> None:
    data, reason = NOT_TEXT[case]
    (tmp_path / "a.txt").write_bytes(data)
    assert read(tmp_path, cut_bytes=cut_bytes) == ([], {reason: 1})


@pytest.mark.parametrize("case", [case for case in NOT_TEXT if "UTF" not in case])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.zip", "a.tar.gz"])
def test_it_costs_one_row_of_a_table_and_one_member_of_an_archive(
    tmp_path: Path, case: str, name: str
) -> None:
    data, reason = NOT_TEXT[case]
    values = [b"one", data, b"two"]
    match name:
        case "a.csv":
            (tmp_path / name).write_bytes(b"text\n" + b"\n".join(b'"%s"' % value for value in values))
        case "a.parquet":
            pq.write_table(pa.table({"text": pa.array(values, pa.binary())}), tmp_path / name)
        case "a.zip":
            write_zip(tmp_path / name, {f"{at}.txt": value for at, value in enumerate(values)})
        case _:
            write_tar(tmp_path / name, {f"{at}.txt": value for at, value in enumerate(values)}, "gz")
    texts, reasons = read(tmp_path)
    assert (texts, reasons) == (["one", "two"], {reason: 1})


def tar_bytes(*headers: tarfile.TarInfo, end: bytes = bytes(1024)) -> bytes:
    return b"".join(header.tobuf(tarfile.GNU_FORMAT) + bytes(header.size) for header in headers) + end


def tar_of_size(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar whose first member is said to have this size, as GNU writes large ones."""
    block = bytearray(special("a.txt", kind).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def zip_bytes(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) and len(old) == len(new)
    return data.replace(old, new)


def encrypted_zip() -> bytes:
    """A zip whose only member says that it is encrypted."""
    data = bytearray(zip_bytes({"a.txt": b"secret"}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    return bytes(data)


LINES = b"".join(b'{"text": "row %d"}\n' % number for number in range(9))
ROWS_OF_PARQUET = io.BytesIO()
pq.write_table(pa.table({"text": ["one", "two"]}), ROWS_OF_PARQUET)
PARQUET = ROWS_OF_PARQUET.getvalue()

BROKEN_FILES: dict[str, tuple[str, bytes, int, dict[str, int]]] = {
    "empty jsonl": ("a.jsonl", b"", 0, {}),
    "empty csv": ("a.csv", b"", 0, {}),
    "empty parquet": ("a.parquet", b"", 0, {formats.BROKEN: 1}),
    "empty gz": ("a.jsonl.gz", b"", 0, {}),
    "empty tar": ("a.tar", b"", 0, {formats.BROKEN: 1}),
    "empty zip": ("a.zip", b"", 0, {formats.BROKEN: 1}),
    "empty page": ("a.html", b"", 0, {webpages.NO_TEXT: 1}),
    "scripts only": ("a.html", b"<script>let text = 1</script>", 0, {webpages.NO_TEXT: 1}),
    "page in no encoding": ("a.html", b"<p>na\xefve</p>", 0, {formats.NOT_UTF8: 1}),
    "page in another encoding": (
        "a.html",
        b"<meta charset=euc-kr><p>\xff\xff</p>",
        0,
        {webpages.OTHER_ENCODING: 1},
    ),
    "page in an encoding of Python alone": (
        "a.html",
        b"<meta charset=punycode><p>\xff</p>",
        0,
        {formats.NOT_UTF8: 1},
    ),
    "truncated jsonl": ("a.jsonl", LINES[:-7], 8, {formats.MALFORMED: 1}),
    "truncated gz": ("a.jsonl.gz", gzip.compress(LINES)[:-10], 8, {formats.BROKEN: 1}),
    "changed gz": (
        "a.jsonl.gz",
        changed(gzip.compress(LINES, 0), b"row 3", b"raw 3"),
        9,
        {formats.BROKEN: 1},
    ),
    "gz with something after it": ("a.jsonl.gz", gzip.compress(LINES) + b"junk" * 9, 9, {formats.BROKEN: 1}),
    "truncated zst": ("a.jsonl.zst", zstandard.compress(LINES)[:-3], 0, {formats.BROKEN: 1}),
    "truncated parquet": ("a.parquet", PARQUET[:-9], 0, {formats.BROKEN: 1}),
    "parquet without its pages": ("a.parquet", PARQUET[:4] + PARQUET[-400:], 0, {formats.BROKEN: 1}),
    "truncated zip": ("a.zip", zip_bytes({"a.txt": b"one"})[:-9], 0, {formats.BROKEN: 1}),
    "zip with a wrong checksum": (
        "a.zip",
        changed(zip_bytes({"a.txt": b"one", "b.txt": b"two"}, zipfile.ZIP_STORED), b"one", b"ONE"),
        1,
        {formats.BROKEN: 1},
    ),
    "encrypted zip": ("a.zip", encrypted_zip(), 0, {archives.ENCRYPTED: 1}),
    "zip packed with bzip2": (
        "a.zip",
        zip_bytes({"a.txt": b"one"}, zipfile.ZIP_BZIP2),
        0,
        {archives.OTHER_PACKING: 1},
    ),
    "truncated tar": ("a.tar", tar_bytes(special("a.txt", tarfile.REGTYPE))[:300], 0, {formats.BROKEN: 1}),
    "tar without an end": (
        "a.tar",
        tar_bytes(special("a.txt", tarfile.REGTYPE), end=b""),
        1,
        {formats.BROKEN: 1},
    ),
    "tar of a size below nothing": ("a.tar", tar_of_size(-512), 0, {formats.BROKEN: 1}),
    "tar of a size beyond all disks": ("a.tar", tar_of_size(2**70), 0, {formats.BROKEN: 1}),
    "tar of a name without end": (
        "a.tar",
        tar_of_size(2**70, tarfile.GNUTYPE_LONGNAME),
        0,
        {formats.BROKEN: 1},
    ),
    "tar of something else": ("a.tar", b"this is no archive" * 99, 0, {formats.BROKEN: 1}),
    "archive in an archive": (
        "a.zip",
        zip_bytes({"b.zip": b"", "c.tar.gz": b""}),
        0,
        {archives.NESTED: 2},
    ),
    "links and devices in a tar": (
        "a.tar",
        tar_bytes(
            special("a.txt", tarfile.SYMTYPE, "/etc/hostname"),
            special("b.txt", tarfile.LNKTYPE, "../../etc/hostname"),
            special("c.txt", tarfile.CHRTYPE),
            special("d.txt", tarfile.BLKTYPE),
            special("e.txt", tarfile.FIFOTYPE),
            special("f.txt", tarfile.GNUTYPE_SPARSE),
        ),
        0,
        {archives.LINK: 5, archives.SPARSE: 1},
    ),
    "ragged csv": ("a.csv", b"id,text\n1,one\n2\n3,two,too,many\n4,four\n", 2, {formats.MALFORMED: 2}),
    "csv with an unclosed quote": (
        "a.csv",
        b'id,text\n1,one\n2,"two\n3,three\n4,four\n',
        3,
        {formats.UNCLOSED: 1},
    ),
    "csv that ends in a quote": ("a.csv", b'id,text\n1,one\n2,"two', 1, {formats.UNCLOSED: 1}),
    "csv with returns within lines": ("a.csv", b"id,text\n1,o\rne\n2,two\n", 1, {formats.MALFORMED: 1}),
    "null and numbers for text": (
        "a.jsonl",
        b'{"text": null}\n{"text": 1}\n{"text": NaN}\n{"text": ["a"]}\n{"body": ""}\n{"text": "row"}\n',
        1,
        {formats.NO_TEXT: 5},
    ),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_keeps_what_is_whole(tmp_path: Path, case: str) -> None:
    name, data, kept, expected = BROKEN_FILES[case]
    (tmp_path / name).write_bytes(data)
    texts, reasons = read(tmp_path)
    assert (len(texts), reasons) == (kept, expected)


def test_the_rows_after_an_unclosed_quote_are_read(tmp_path: Path) -> None:
    rows = "".join(f"{number},row {number}\n" for number in range(50_000))
    (tmp_path / "a.csv").write_text(f'id,text\n0,one\n1,"two\n{rows}')
    texts, reasons = read(tmp_path)
    assert (len(texts), texts[-1], reasons) == (50_001, "row 49999", {formats.UNCLOSED: 1})


def test_quotes_that_are_never_closed_do_not_cost_the_square_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tables.REREAD_BYTES", 10_000)
    (tmp_path / "a.csv").write_text("id,text\n" + '"a" "\n"b\n' * 2_000)
    before = time.process_time()
    _, reasons = read(tmp_path)
    assert set(reasons) <= {formats.UNCLOSED, formats.MALFORMED} and time.process_time() - before < 5


def test_missing_labels_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "label": NaN}\n{"text": "b", "label": null}\n{"text": "c"}\n'
    )
    (tmp_path / "b.csv").write_text("text,label\nd,\ne, \nf,0\n")
    pq.write_table(pa.table({"text": ["g", "h"], "label": [float("nan"), 1.0]}), tmp_path / "c.parquet")
    source = Files(paths=(str(tmp_path),), label_column="label")
    source.check()
    labels = {one.text: one.label for one in source.documents() if isinstance(one, Document)}
    assert labels == {"a": None, "b": None, "c": None, "d": None, "e": None, "f": "0", "g": None, "h": "1.0"}


def test_a_page_that_takes_too_long_is_set_aside_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webpages, "PAGE_SECONDS", 0.5)
    many = " ".join(f"a{number}=1" for number in range(200_000))
    (tmp_path / "a.html").write_text(f"<p {many}>with too many attributes")
    (tmp_path / "b.html").write_text("<p>a short page")
    assert read(tmp_path) == (["a short page"], {webpages.TOO_COSTLY: 1})


SEEDS: dict[str, bytes] = {
    "csv": b"text,author\n" + b'"a ""b"" c",d\ne,f\n' * 20,
    "jsonl": LINES,
    "jsonl.gz": gzip.compress(LINES),
    "jsonl.zst": zstandard.compress(LINES),
    "parquet": PARQUET,
    "tar": tar_bytes(special("a.txt", tarfile.REGTYPE), special("b.txt", tarfile.SYMTYPE, "c")),
    "zip": zip_bytes({"a.txt": b"one", "b.jsonl": LINES}),
}


@pytest.mark.parametrize("kind", SEEDS)
def test_whatever_is_damaged_nothing_stops_the_rest(tmp_path: Path, kind: str) -> None:
    dice = random.Random(kind)
    for _ in range(100):
        data = bytearray(SEEDS[kind])
        for _ in range(dice.choice((1, 1, 3, 9))):
            at = dice.randrange(len(data))
            data[at : at + dice.choice((0, 1, 1, 8))] = dice.randbytes(dice.choice((0, 1, 1, 8)))
        (tmp_path / f"a.{kind}").write_bytes(data)
        (tmp_path / GOOD).write_text("good")
        *_, last = Files(paths=(str(tmp_path),), text_column="text").documents()
        assert isinstance(last, Document) and last.text == "good"
