"""Archives as they come: names, links and numbers of members that mean harm have no effect."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from tasks import archives
from tasks.documents import Document
from tasks.source import Files
from tests.test_bad_inputs import read
from tests.test_reading import write_tar, write_zip


@pytest.mark.parametrize(
    "name", ["../../out.txt", "/tmp/out.txt", "a/../../out.txt", "..\\out.txt", "C:/out.txt"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_is_written_where_an_archive_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    name = name.replace("/tmp", str(tmp_path))
    (write_zip if kind == "zip" else write_tar)(folder / f"a.{kind}", {name: b"text"})
    (found,) = Files(paths=(f"a.{kind}",)).documents()
    assert isinstance(found, Document) and (found.text, found.source) == ("text", f"a.{kind}!{name}")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [folder / f"a.{kind}"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_all_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "one")
        archive.writestr("a.txt", "two")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for text in (b"three", b"four"):
            header = tarfile.TarInfo("a.txt")
            header.size = len(text)
            tar.addfile(header, io.BytesIO(text))
    assert read(tmp_path) == (["one", "two", "three", "four"], {})


def test_a_link_in_a_zip_is_set_aside(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("a.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/hostname")
    assert read(tmp_path) == ([], {archives.LINK: 1})


def test_a_zip_of_too_many_members_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "DIRECTORY_BYTES", 70_000)
    write_zip(tmp_path / "a.zip", {f"{number}.txt": b"" for number in range(1_500)})
    assert read(tmp_path) == ([], {archives.LARGE_DIRECTORY: 1})
