"""What can be read: archives and packed files, web pages, encodings, groups, addresses; in order, and streamed."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tasks.artifacts import InputError
from tasks.documents import Document, SetAside
from tasks.source import Files

ROWS = [{"text": f"Row {number}, with a comma.", "author": "ab"[number % 2]} for number in range(4)]
PAGE = """<html><head><title>T</title></head><body><nav><a href="/">Home</a> <a href="/x">About us</a></nav>
<main><h1>Owls</h1><p>Owls hunt at night, and hear where a mouse is by the time between their ears.</p></main>
<script>track("everything")</script><footer>Copyright, imprint, cookies</footer></body></html>"""


def documents(*paths: object, **settings: object) -> list[Document]:
    found = list(Files.model_validate({"paths": [str(path) for path in paths], **settings}).documents())
    assert not [one for one in found if isinstance(one, SetAside)]
    return [one for one in found if isinstance(one, Document)]


def parquet_bytes() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


MEMBERS = {
    "b/one.txt": b"first text",
    "b/two.md.gz": gzip.compress(b"second text"),
    "picture.png": bytes(99),
    "rows.csv": b"text,author\n" + b"".join(f'"{row["text"]}",{row["author"]}\n'.encode() for row in ROWS),
    "rows.jsonl.zst": zstandard.compress(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)),
    "rows.parquet": parquet_bytes(),
    "z/page.html": PAGE.encode(),
}


def write_tar(path: Path, members: dict[str, bytes], how: str = "") -> None:
    with tarfile.open(path, f"w:{how}", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def write_zst(path: Path, members: dict[str, bytes]) -> None:
    write_tar(path.with_suffix(""), members)
    path.write_bytes(zstandard.compress(path.with_suffix("").read_bytes()))


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], None]] = {
    "a.tar": write_tar,
    "a.tar.gz": lambda path, members: write_tar(path, members, "gz"),
    "a.tgz": lambda path, members: write_tar(path, members, "gz"),
    "a.tar.zst": write_zst,
    "a.zip": write_zip,
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_archive_gives_what_its_folder_would(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    for member, data in MEMBERS.items():
        (folder / member).parent.mkdir(parents=True, exist_ok=True)
        (folder / member).write_bytes(data)
    WRITERS[name](tmp_path / name, MEMBERS)
    given = {"label_column": "author"}
    expected = documents(folder, **given)
    found = documents(tmp_path / name, **given)
    assert len(expected) == 15
    assert [(one.text, one.position) for one in found] == [(one.text, one.position) for one in expected]
    assert [one.source for one in found] == [
        one.source.replace(f"{folder}/", f"{tmp_path / name}!") for one in expected
    ]
    inner = [one.label for one in found if "!b/" in one.source or "!z/" in one.source]
    assert inner == ["b", "b", "z"]


@pytest.mark.parametrize("how", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_and_folders_of_tars_are_understood(tmp_path: Path, how: int) -> None:
    deep = "/".join(["folder" * 4] * (9 if how != tarfile.USTAR_FORMAT else 5)) + "/ü.txt"
    with tarfile.open(tmp_path / "a.tar", "w", format=how) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in ((deep, b"deep down"), ("top.txt", b"at the top"), ("empty.txt", b"")):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    found = documents(tmp_path / "a.tar")
    assert [(one.source.partition("!")[2], one.text) for one in found] == [
        (deep, "deep down"),
        ("top.txt", "at the top"),
        ("empty.txt", ""),
    ]
    assert [one.label for one in found] == ["folder" * 4, "a", "a"]


def test_a_column_that_an_archive_lacks_is_refused_at_the_door(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(tmp_path / name, {"notes.txt": b"text", "rows.csv": MEMBERS["rows.csv"]})
        with pytest.raises(InputError, match=rf"{name}!rows.csv has no column 'body'; it has text, author"):
            Files(paths=(str(tmp_path / name),), text_column="body").check()


def test_rows_of_one_author_are_one_group(tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.jsonl.zst", "rows.parquet"):
        (tmp_path / name).write_bytes(MEMBERS[name])
        found = documents(tmp_path / name, group_column="author")
        assert [one.group for one in found] == ["a", "b", "a", "b"]
        assert {one.group for one in documents(tmp_path / name)} == {name}
    (tmp_path / "few.csv").write_text("text,author\nby nobody,\nnor this,\n")
    alone = documents(tmp_path / "few.csv", group_column="author")
    assert len({one.group for one in alone}) == 2
    with pytest.raises(InputError, match="no column 'writer'; it has text, author"):
        Files(paths=(str(tmp_path / "few.csv"),), group_column="writer").check()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.html", "pieces.txt"])
def test_a_byte_order_mark_says_how_a_file_is_encoded(tmp_path: Path, name: str, encoding: str) -> None:
    text = "Größe, 大きさ\n\n" * 40
    content = {
        "a.csv": f'text\n"{text}"\n',
        "a.jsonl": json.dumps({"text": text}, ensure_ascii=False) + "\n",
        "a.html": f"<html><body><p>{text}</p></body></html>",
    }.get(name, text)
    mark = "" if encoding == "utf-8-sig" else "\ufeff"
    (tmp_path / name).write_bytes((mark + content).encode(encoding))
    found = documents(tmp_path / name, cut_bytes=256 if name == "pieces.txt" else None)
    expected = " ".join(text.split()) if name == "a.html" else text
    assert "".join(one.text for one in found) == expected
    assert len(found) == (4 if name == "pieces.txt" else 1)


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("", "utf-8"),
        ('<meta charset="utf-8">', "utf-8"),
        ('<meta charset="iso-8859-1">', "windows-1252"),
        ("<META http-equiv=Content-Type content='text/html; charset=Shift_JIS'>", "shift_jis"),
        ('<?xml version="1.0" encoding="EUC-KR"?>', "euc-kr"),
    ],
)
def test_a_page_is_decoded_as_it_says(tmp_path: Path, head: str, encoding: str) -> None:
    text = {"shift_jis": "大きさ", "euc-kr": "크기"}.get(encoding, "Größe – naïve")
    (tmp_path / "a.html").write_bytes(f"{head}<p>{text}</p>".encode(encoding))
    assert [one.text for one in documents(tmp_path)] == [text]


def test_of_a_page_the_main_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    (tmp_path / "b.htm").write_text("<nav><a href='/'>Home</a> <a href='/x'>About us</a></nav>")
    owls, menu = documents(tmp_path)
    assert owls.text.split("\n")[0] == "Owls" and "hear where a mouse is" in owls.text
    assert not [word for word in ("Home", "track", "Copyright") if word in owls.text]
    assert menu.text.split() == ["Home", "About", "us"]  # a page without main text is taken whole


def test_a_long_page_is_cut_like_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("".join(f"<p>Paragraph {n} {'word ' * 30}</p>" for n in range(20)))
    pieces = documents(tmp_path, cut_bytes=512)
    assert len(pieces) > 3 and all(len(one.text) < 1024 for one in pieces)
    assert "".join(one.text for one in pieces) == documents(tmp_path)[0].text


def test_a_file_of_several_packed_parts_is_read_to_its_end(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {number}"}).encode() + b"\n" for number in range(9)]
    (tmp_path / "a.jsonl.gz").write_bytes(
        b"".join(map(gzip.compress, lines)) + bytes(512)
    )  # padded, as on tapes
    (tmp_path / "b.jsonl.zst").write_bytes(b"".join(map(zstandard.compress, lines)))
    assert len(documents(tmp_path)) == 18


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    found = fsspec.filesystem("memory")
    yield found
    found.rm("/", recursive=True)


def test_an_address_gives_what_a_folder_does(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    for member, data in {**MEMBERS, "c.txt": b"third", ".hidden/d.txt": b"never"}.items():
        (tmp_path / "corpus" / member).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / member).write_bytes(data)
        store.pipe(f"/corpus/{member}", data)
    on_disk = documents(tmp_path / "corpus")
    assert len(on_disk) == 16
    for address in ("memory://corpus", f"file://{tmp_path}/corpus"):
        found = documents(address)
        assert [one._replace(source="") for one in found] == [one._replace(source="") for one in on_disk]
    assert {one.source.partition("corpus")[0] for one in documents("memory://corpus")} == {"memory:///"}
    assert [one.text for one in documents("memory://corpus/*.txt")] == ["third"]
    assert [one.text for one in documents("memory://corpus/c.txt")] == ["third"]
    assert Files(paths=("memory://corpus/c.txt",)).size_bytes() == 5


def test_what_is_in_a_store_has_a_fingerprint(store: fsspec.AbstractFileSystem) -> None:
    store.pipe("/a.txt", b"before")
    source = Files(paths=("memory://a.txt",))
    first = source.fingerprint()
    assert source.fingerprint() == first
    store.pipe("/a.txt", b"after!")
    assert source.fingerprint() != first
