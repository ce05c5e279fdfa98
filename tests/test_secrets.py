"""Passwords, keys and tokens: none is written down, wherever it was given."""

import base64
import functools
import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tasks import home, tracking
from tasks.artifacts import InputError
from tasks.clean_text import clean_text
from tasks.places import StoreError, named
from tasks.processes import bound_socket
from tasks.recipe import load_recipe
from tasks.secrets import guard_logs, holds_secret, moved_out_of, without_secrets
from tasks.source import Files

GITHUB = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at http://jane:s3cret-word@host:5000/api now", "at http://***@host:5000/api now"),
        ("postgresql+psycopg2://u:p/w+x=@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("s3://AKIAABCDEFGHIJKLMNOP:abc/def+ghi@bucket/x", "s3://***@bucket/x"),
        ("https://h/x?a=1&X-Amz-Signature=0a1b2c&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?token=abc", "https://h/x?token=***"),
        (f"git clone https://{GITHUB}@host/x", "git clone https://***@host/x"),
        ("https://host:8080/path?mail=a@b.org", "https://host:8080/path?mail=a@b.org"),
        ("abfs://container@account.host/x", "abfs://container@account.host/x"),
        ("http://${NAME}:${WORD}@host", "http://${NAME}:${WORD}@host"),
        ("no address: a@b, 12:30", "no address: a@b, 12:30"),
    ],
)
def test_addresses_and_keys_are_masked_and_nothing_else(text: str, expected: str) -> None:
    assert without_secrets(text) == expected
    assert holds_secret(text) == (text != expected)


def test_values_of_the_environment_are_masked_where_their_name_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "plain-words-only")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "jane:another-word")
    monkeypatch.setenv("SHORT_KEY", "ab")
    monkeypatch.setenv("SOME_SETTING", "visible-value")
    text = "plain-words-only another-word visible-value ab"
    assert without_secrets(text) == "*** *** visible-value ab"
    assert str(InputError(f"x {text}")) == str(StoreError(f"x {text}")) == "x *** *** visible-value ab"


def test_logs_and_tracebacks_hold_none(caplog: pytest.LogCaptureFixture) -> None:
    guard_logs()
    log = logging.getLogger("shoestring")
    with caplog.at_level(logging.INFO, "shoestring"):
        log.info("to %s", "http://jane:s3cret-word@host")
        try:
            raise RuntimeError("from http://jane:s3cret-word@host")
        except RuntimeError:
            log.exception("it failed")
    assert "http://***@host" in caplog.text
    assert "Traceback" in caplog.text
    assert "s3cret-word" not in caplog.text


def test_logins_leave_the_addresses_of_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv(home.HOME_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://jane:a%40b@host:4200/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://joe:word@host/mlflow")
    home.use_home()
    assert os.environ["PREFECT_API_URL"] == "http://host:4200/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == "jane:a@b"
    assert tracking.tracking_uri() == "https://host/mlflow"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("joe", "word")
    assert (
        moved_out_of("postgresql://u:p@h/d", "A", "B") == "postgresql://u:p@h/d"
    )  # its driver wants it there


@pytest.mark.parametrize(
    "path", ["s3://AKIA0:abc/def@bucket/x", "https://h/x.txt?X-Amz-Signature=0123", f"https://h/{GITHUB}/x"]
)
def test_settings_that_hold_secrets_are_refused_without_telling_them(path: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps({"source": {"kind": "files", "paths": [path]}}))
    for refuse in (
        lambda: load_recipe(str(recipe)),
        lambda: load_recipe("my-text", [f"source.paths={path}"]),
        lambda: clean_text([path], tmp_path / "out", None, []),
        Files(paths=(path,)).check,  # as from a notebook, or the page of Prefect
    ):
        with pytest.raises(
            InputError, match=r"source\.paths: .* put it into an environment variable"
        ) as caught:
            refuse()
        assert not any(secret in str(caught.value) for secret in ("abc/def", "0123", GITHUB))


def test_the_form_of_the_page_takes_no_login() -> None:
    pattern = Files.model_json_schema()["properties"]["paths"]["items"]["pattern"]
    for path, fits in (
        ("https://jane:word@host/x", False),
        ("https://jane:${WORD}@host/x", True),
        ("https://host:80/x?mail=a@b", True),
        ("notes/*.txt", True),
        ("abfs://container@account/x", True),
    ):
        assert bool(re.search(pattern, path)) == fits, path


class _Guarded(http.server.SimpleHTTPRequestHandler):
    """Files, for those who know the password."""

    login = "reader:corpus-password-1"

    def do_GET(self) -> None:
        told = self.headers.get("Authorization", "").partition(" ")[2]
        if base64.b64decode(told).decode() != self.login:
            self.send_error(401)
            return
        super().do_GET()

    do_HEAD = do_GET

    def log_message(self, *words: object) -> None: ...


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Guarded, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_address_may_name_the_variables_that_hold_its_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.txt").write_text("a text behind a password")
    with file_server(tmp_path) as server:
        path = f"http://reader:${{CORPUS_PASSWORD}}@{server}/one.txt"
        monkeypatch.setenv("CORPUS_PASSWORD", "corpus-password-1")
        source = Files(paths=(path,))
        source.check()
        (document,) = source.documents()
        assert document[-1] == "a text behind a password"
        assert "corpus-password-1" not in f"{document} {source.describe()} {source.fingerprint()} {source}"
        assert named(path).startswith("http://")
        monkeypatch.setenv("CORPUS_PASSWORD", "wrong-password")
        with pytest.raises(InputError) as caught:
            source.check()
        assert "wrong-password" not in str(caught.value)
        monkeypatch.delenv("CORPUS_PASSWORD")
        with pytest.raises(InputError, match="names the variable 'CORPUS_PASSWORD'"):
            source.check()


# What is planted, by the name that it goes by in the environment of the run.
PLANTED = {
    "HF_TOKEN": "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345678",
    "AWS_ACCESS_KEY_ID": "AKIA5PLANTED7KEY9ID1",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+access/key0123456789ABCDE",
    "GITHUB_TOKEN": GITHUB,
    "OPENAI_API_KEY": "sk-planted0123456789abcdefABCDEF",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "DATABASE_PASSWORD": "planted-database-password",
    "CORPUS_PASSWORD": "corpus-password-1",
    "CORPUS_SIGNATURE": "0planted1signature2",
}
LOGINS = {"MLFLOW_TRACKING_URI": "planted-mlflow-password", "PREFECT_API_URL": "planted-prefect-password"}


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_nothing_planted_is_found_after_a_run(tmp_path: Path, corpus_texts: list[str]) -> None:
    """Eleven secrets: two in the addresses of servers, two behind the source's address, the rest in the environment."""
    folders = [tmp_path / name for name in ("served", "home", "server", "mlflow")]
    served, run_home, server_home, mlflow_home = folders
    for folder in folders:
        folder.mkdir()
    for part in range(4):
        rows = [json.dumps({"text": text}) for text in corpus_texts[part::4]]
        (served / f"{part}.jsonl").write_text("\n".join(rows))
    clean = {
        n: v
        for n, v in os.environ.items()
        if not n.startswith(("SHOESTRING_", "PREFECT_", "MLFLOW_", "RAY_"))
    }
    with bound_socket(None, "--port") as one, bound_socket(None, "--port") as two:
        prefect_port, mlflow_port = one.getsockname()[1], two.getsockname()[1]
    store = f"sqlite:///{mlflow_home / 'mlflow.db'}"
    kept = ["--backend-store-uri", store, "--artifacts-destination", str(mlflow_home / "artifacts")]
    servers: list[tuple[list[str], dict[str, str]]] = [
        (["prefect", "server", "start", "--port", str(prefect_port)], {"PREFECT_HOME": str(server_home)}),
        (["mlflow", "server", "--port", str(mlflow_port), "--workers", "1", *kept], {}),
    ]
    secrets = dict.fromkeys(PLANTED, "") | PLANTED
    with file_server(served) as files, suppress_output(tmp_path / "out") as out:
        address = f"http://reader:${{CORPUS_PASSWORD}}@{files}"
        paths = [f"{address}/{part}.jsonl?X-Amz-Signature=${{CORPUS_SIGNATURE}}" for part in range(4)]
        environment = (
            clean
            | secrets
            | {
                "PREFECT_API_URL": f"http://jane:{LOGINS['PREFECT_API_URL']}@127.0.0.1:{prefect_port}/api",
                "MLFLOW_TRACKING_URI": f"http://joe:{LOGINS['MLFLOW_TRACKING_URI']}@127.0.0.1:{mlflow_port}",
            }
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-m", *words],
                env=clean | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | settings,
                cwd=mlflow_home,
                stdout=out,
                stderr=out,
            )
            for words, settings in servers
        ]
        try:
            wait_for(f"http://127.0.0.1:{prefect_port}/api/health", f"http://127.0.0.1:{mlflow_port}/health")
            sources = f"source.paths={json.dumps(paths)}"
            for words, code in (
                (["run", "my-text", "--budget", "90s", "--set", sources, "--set", "validation.folds=2"], 0),
                (["run", "my-text", "--set", f"source.paths=s3://x:{'inline-password'}@bucket/x"], 2),
                (["generate", "def", "--model", "nobody@champion"], 2),
            ):
                done = subprocess.run(
                    [sys.executable, "-m", "flows", *words, "--home", str(run_home)],
                    env=environment,
                    stdout=out,
                    stderr=out,
                )
                assert done.returncode == code, (words, (tmp_path / "out").read_text()[-3000:])
        finally:
            for process in running:
                process.terminate()
                process.wait(30)
    assert len(list((mlflow_home / "artifacts").rglob("model.safetensors"))) >= 1
    found = planted_in(tmp_path, {*PLANTED.values(), *LOGINS.values(), "inline-password"})
    assert found == []


@contextmanager
def suppress_output(path: Path) -> Iterator[int]:
    with path.open("wb") as file:
        yield file.fileno()


def wait_for(*addresses: str) -> None:
    """Until all answer."""
    deadline = time.monotonic() + 120
    for address in addresses:
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(address, timeout=2):
                break
            time.sleep(0.2)


def planted_in(folder: Path, secrets: set[str]) -> list[str]:
    """Files that hold a secret, as it is or as logins are sent."""
    pairs = {f"{user}:{word}" for user in ("jane", "joe", "reader") for word in secrets}
    wanted = [one.encode() for one in secrets] + [base64.b64encode(pair.encode()) for pair in pairs]
    held = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            held += [f"{path}: {one.decode()}" for one in wanted if one in data]
    return held
