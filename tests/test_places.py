"""Where files lie: what is no file, may not be read or is not there is set aside or refused, and never opened."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import formats, places
from tasks.artifacts import InputError
from tasks.documents import Document, SetAside
from tasks.source import Files
from tests.test_bad_inputs import read


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)  # in the working folder: the name of a socket may have 107 bytes


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing.txt"))


def link_loop(path: Path) -> None:
    path.symlink_to(path.with_name("loop.txt"))
    path.with_name("loop.txt").symlink_to(path)


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL_FILES: dict[str, tuple[Callable[[Path], None], dict[str, int]]] = {
    "pipe": (pipe, {places.NO_FILE: 1}),
    "socket": (bound_socket, {places.NO_FILE: 1}),
    "dangling link": (dangling_link, {places.NO_TARGET: 1}),
    "link loop": (link_loop, {places.NO_TARGET: 2}),
    "link to a device": (link_to_device, {places.NO_FILE: 1}),
}


@pytest.mark.parametrize("case", SPECIAL_FILES)
@pytest.mark.parametrize("glob", [False, True], ids=["folder", "glob"])
def test_what_is_no_file_is_set_aside_unopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, glob: bool
) -> None:
    make, reasons = SPECIAL_FILES[case]
    monkeypatch.chdir(tmp_path)
    make(Path("a.txt"))
    assert read(tmp_path) == ([], reasons)
    found = list(Files(paths=(f"{tmp_path}/*.txt",)).documents()) if glob else []
    assert {one.reason for one in found if isinstance(one, SetAside)} == (set(reasons) if glob else set())


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.txt").write_text("once")
    (tmp_path / "inner" / "back").symlink_to(tmp_path)
    assert read(tmp_path) == (["once"], {})


def test_a_glob_does_not_go_in_circles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a" / "b"
    (folder / ".hidden").mkdir(parents=True)
    for name in ("one.txt", ".two.txt", ".hidden/three.txt", "four.md"):
        (folder / name).write_text(name)
    for number in range(5):  # followed, they would give 5^40 paths
        (folder / f"link{number}").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for pattern in ("**/*.txt", f"{tmp_path}/**/*.txt", "a/**/o*", f"../{tmp_path.name}/a/**/*.t?t"):
        found = Files(paths=(pattern,)).documents()
        assert [Path(one.source).name for one in found] == ["one.txt"], pattern
    everything = [Path(one.source).name for one in Files(paths=("a/**",)).documents()]
    assert everything == ["four.md", "one.txt"]


def test_a_folder_named_like_a_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    (tmp_path / "rows.jsonl" / "part.jsonl").write_text('{"text": "a row"}\n')
    assert read(tmp_path) == (["a row"], {})
    assert [one.source for one in Files(paths=(str(tmp_path / "rows.jsonl"),)).documents()] == [
        f"{tmp_path}/rows.jsonl/part.jsonl"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to the superuser")
def test_what_may_not_be_read_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("closed")
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").chmod(0)
    (tmp_path / "closed").chmod(0)
    assert read(tmp_path) == ([], {formats.FORBIDDEN: 1, places.CLOSED_FOLDER: 1})


def test_a_name_that_is_not_utf8_is_shown_in_unicode(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / os.fsdecode(b"na\xefve.txt")).write_text("text")
    source = Files(paths=(str(tmp_path),))
    (found,) = source.documents()
    assert isinstance(found, Document)
    assert (found.source, found.label) == (f"{tmp_path}/caf\\xe9/na\\xefve.txt", "caf\\xe9")
    assert source.fingerprint() == source.fingerprint()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/dev/zero", "is a device, pipe or socket"),
        ("pipe.txt", "is a device, pipe or socket"),
        ("loop.txt", "does not exist"),
        ("a\0b.txt", "does not exist"),
        ("x" * 5000, "does not exist"),
        ("~nobody-of-this-name/a.txt", "does not exist"),
        ("xyz://bucket/key", "fsspec knows no protocol 'xyz'"),
        ("gs://bucket/key", "needs a package that is not there. .*gcsfs"),
        ("memory://nothing/here", "does not exist"),
        ("memory://nothing/*.txt", "matches no file"),
        ("file:///dev/zero", "is a device, pipe or socket"),
    ],
)
def test_what_cannot_be_read_at_all_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe(tmp_path / "pipe.txt")
    link_loop(tmp_path / "a.txt")
    with pytest.raises(InputError, match=words) as refusal:
        Files(paths=(path,)).check()
    assert "\n" not in str(refusal.value) and refusal.value.__cause__ is None


def test_no_password_is_shown() -> None:
    source = Files(
        paths=("ftp://anna:secret@host/a.txt", "https://host/a.txt?Signature=secret", "s3://b/a?.txt")
    )
    assert source.describe() == "files: ftp://host/a.txt, https://host/a.txt, s3://b/a?.txt"
