"""An object store gives what a disk would; what is not there or may not be read is refused in one line."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import zstandard
from moto.server import ThreadedMotoServer

from tasks.artifacts import InputError
from tasks.documents import Document
from tasks.places import StoreError
from tasks.source import Files
from tests.test_reading import write_tar, write_zip

SECRET = "a-key-that-nobody-may-see"
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "shoestring",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
ROWS = [{"text": f"Row {number} of a table.", "topic": "ab"[number % 2]} for number in range(300)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, server: str) -> Iterator[None]:
    for name, value in {**SETTINGS, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def corpus(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on disk, and the same below s3://corpus/data."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "notes").mkdir()
    (folder / ".hidden").mkdir()
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(LINES))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "b.parquet", row_group_size=100)
    (folder / "notes" / "c.txt").write_text("A note, and nothing else.")
    (folder / "notes" / "picture.png").write_bytes(bytes(99))
    (folder / ".hidden" / "d.txt").write_text("Never read.")
    write_tar(folder / "e.tar.gz", {"f/one.txt": b"In a tar.", "rows.jsonl": LINES}, "gz")
    write_zip(folder / "g.zip", {"h/two.txt": b"In a zip.", "b.parquet": (folder / "b.parquet").read_bytes()})
    keys = {"key": SETTINGS["AWS_ACCESS_KEY_ID"], "secret": SECRET}
    store = s3fs.S3FileSystem(**keys, endpoint_url=server, skip_instance_cache=True)
    store.mkdir("corpus")
    for path in folder.rglob("*"):
        if path.is_file():
            store.pipe(f"corpus/data/{path.relative_to(folder)}", path.read_bytes())
    return folder


def read(path: object, **given: object) -> list[Document]:
    source = Files.model_validate({"paths": str(path), "label_column": "topic", **given})
    source.check()
    found = list(source.documents())
    assert all(isinstance(one, Document) for one in found)
    return [one for one in found if isinstance(one, Document)]


def test_a_prefix_gives_the_documents_of_the_same_folder(corpus: Path) -> None:
    on_disk, stored = read(corpus), read("s3://corpus/data")
    assert len(stored) == 4 * len(ROWS) + 3
    assert stored == [
        one._replace(source=one.source.replace(str(corpus), "s3://corpus/data")) for one in on_disk
    ]


@pytest.mark.parametrize(
    ("address", "count"),
    [
        ("s3://corpus/data/b.parquet", 300),
        ("s3://corpus/data/*.zst", 300),
        ("s3://corpus/data/notes/", 1),
        ("s3://corpus", 1203),
    ],
)
def test_files_globs_and_buckets_are_read(corpus: Path, address: str, count: int) -> None:
    assert len(read(address)) == count


def test_the_fingerprint_is_the_content_s(corpus: Path, server: str) -> None:
    source = Files(paths=("s3://corpus/data",))
    first = source.fingerprint()
    assert source.size_bytes() == Files(paths=(str(corpus),)).size_bytes()
    store = s3fs.S3FileSystem(endpoint_url=server)
    note = store.cat("corpus/data/notes/c.txt")
    store.pipe("corpus/data/notes/c.txt", note)  # the same, written again
    assert source.fingerprint() == first
    store.pipe("corpus/data/notes/c.txt", note.upper())
    assert source.fingerprint() != first
    store.pipe("corpus/data/notes/c.txt", note)
    assert source.fingerprint() == first


def test_a_column_that_is_not_there_is_refused_at_the_door(corpus: Path) -> None:
    with pytest.raises(
        InputError, match=r"s3://corpus/data/a.jsonl.zst has no column 'body'; it has text, topic"
    ):
        read("s3://corpus/data", text_column="body")


def refusal(path: str) -> str:
    with pytest.raises(InputError) as refused:
        Files(paths=(path,)).check()
    assert (
        refused.value.__context__ is None or refused.value.__suppress_context__
    )  # no stack of the store's own
    text = str(refused.value)
    assert "\n" not in text and SECRET not in text
    return text


@pytest.mark.parametrize("path", ["s3://missing-bucket", "s3://missing-bucket/data", "s3://corpus/nothing"])
def test_what_is_not_there_is_refused(corpus: Path, path: str) -> None:
    assert f"source.paths: {path} does not exist" in refusal(path)


def test_a_glob_without_matches_is_refused(corpus: Path) -> None:
    assert "matches no file" in refusal("s3://corpus/data/*.nothing")


def test_no_credentials_are_refused(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "s3://corpus/data may not be read. Give credentials" in refusal("s3://corpus/data")


def test_a_store_that_does_not_answer_is_no_broken_file(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # of five, with ten seconds between them
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "the store does not answer" in refusal("s3://corpus/data")
    with pytest.raises(StoreError):
        list(Files(paths=("s3://corpus/data",)).documents())


def test_an_object_that_goes_while_it_is_listed_is_set_aside(corpus: Path, server: str) -> None:
    store = s3fs.S3FileSystem(endpoint_url=server)
    store.pipe("corpus/going/a.txt", b"stays")
    store.pipe("corpus/going/b.txt", b"goes")
    found = Files(paths=("s3://corpus/going",)).documents()
    first = next(found)
    store.rm("corpus/going/b.txt")
    rest = list(found)
    assert isinstance(first, Document) and not isinstance(rest[0], Document) and len(rest) == 1
    store.rm("corpus/going/a.txt")


class CutsOff(BaseHTTPRequestHandler):
    """Promises a file and closes the connection within it."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(LINES)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(LINES[: len(LINES) // 2])

    def log_message(self, *given: object) -> None:
        """Nothing."""


def test_a_stream_that_breaks_off_is_not_taken_for_a_short_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNATURE_OF_A", SECRET)
    with ThreadingHTTPServer(("127.0.0.1", 0), CutsOff) as cutting:
        threading.Thread(target=cutting.serve_forever, daemon=True).start()
        source = Files(
            paths=(f"http://127.0.0.1:{cutting.server_port}/a.jsonl?Signature=${{SIGNATURE_OF_A}}",)
        )
        with pytest.raises(StoreError, match=r"a\.jsonl: the store does not answer") as broken:
            list(source.documents())
        cutting.shutdown()
    assert SECRET not in str(broken.value)
