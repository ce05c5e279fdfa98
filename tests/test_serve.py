"""A served model, asked over HTTP: it answers, refuses in one line what the rules forbid, and stops on ctrl-c."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn

from tasks.artifacts import InputError
from tasks.door import Limits
from tasks.generate import load
from tasks.predict import predictions
from tasks.processes import bound_socket
from tasks.serve import CONNECTIONS, app_of
from tasks.writing import Wish, sample
from tests import tiny_run

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "causal": tiny_run.write_model(folder / "causal", steps=10, context=256),
        "masked": tiny_run.write_model(folder / "masked", steps=10, head="masked"),
        "classification": tiny_run.write_model(folder / "classification", steps=10, head="classification"),
    }


@contextmanager
def serving(model: Path, **limits: Any) -> Iterator[httpx.Client]:
    """The app as it is served, on a port of its own, in a thread."""
    app, _ = app_of(model, Limits(**limits))
    with bound_socket(None, "--port") as listening:
        config = uvicorn.Config(app, log_level="error", limit_concurrency=CONNECTIONS, http="h11", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60
            ) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def classifier(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    words = tmp_path_factory.mktemp("words") / "words.txt"
    words.write_text("forbidden\nvery bad words\n")
    limits = {"most_characters": 200, "most_texts": 3, "most_body_bytes": 2000}
    with serving(models["classification"], block_list=words, **limits) as client:
        yield client


def ask(client: httpx.Client, *texts: str, **params: Any) -> httpx.Response:
    body: dict[str, Any] = {"inputs": list(texts)}
    return client.post("/invocations", json=body | ({"params": params} if params else {}))


def refused(answer: httpx.Response, status: int, rule: str, message: str) -> None:
    """One line of JSON that names the rule and says what to do, and holds no stack trace."""
    assert answer.status_code == status, answer.text
    assert len(answer.text.splitlines()) == 1
    told = answer.json()
    assert (told["rule"], set(told)) == (rule, {"error_code", "rule", "message"})
    assert message in told["message"]
    assert len(told["message"].splitlines()) == 1


@pytest.mark.parametrize("head", ["masked", "classification"])
def test_it_answers_as_the_command_does(head: str, models: dict[str, Path]) -> None:
    texts = ["def [MASK] key", "in [MASK] value"]
    expected = json.loads(json.dumps(list(predictions(models[head], texts))))
    with serving(models[head]) as client:
        assert ask(client, *texts).json() == {"predictions": expected}
        assert client.get("/health").status_code == client.get("/ping").status_code == 200


def test_a_model_that_writes_takes_params(models: dict[str, Path]) -> None:
    model, tokenizer = load(models["causal"])
    with serving(models["causal"], most_tokens=30) as client:
        answer = ask(client, "def", "return", tokens=12, seed=5, temperature=1.0, top_k=50).json()[
            "predictions"
        ]
        assert [one["prompt"] for one in answer] == ["def", "return"]
        wish = Wish(12, 1.0, 50, seed=5)
        assert answer[0]["completion"] == "".join(sample(model, tokenizer, "def", wish))
        assert ask(client, "def").status_code == 200
        refused(ask(client, "def", tokens=31), 400, "params", "tokens may be 30 at most")
        refused(ask(client, "def", tokens=0), 400, "params", "greater than or equal to 1")
        refused(ask(client, "def", tempo=1), 400, "params", "there are tokens, temperature, top_k, seed")


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": "def"},
        {"inputs": ["def"]},
        {"instances": ["def"]},
        {"instances": [{"text": "def"}]},
        {"inputs": {"text": ["def"]}},
        {"dataframe_records": [{"text": "def"}]},
        {"dataframe_split": {"columns": ["text"], "data": [["def"]]}},
    ],
)
def test_every_form_of_mlflows_clients_is_read(body: dict[str, Any], classifier: httpx.Client) -> None:
    answer = classifier.post("/invocations", json=body)
    assert [one["text"] for one in answer.json()["predictions"]] == ["def"]


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        ("x" * 201, "length", "text 2 has 201 characters, and 200 are allowed: shorten it"),
        ("a\x00b", "control_characters", "text 2 holds the control character U+0000: take it out"),
        ("a\x1b[31mb", "control_characters", "U+001B"),
        ("a\u202eb", "control_characters", "U+202E"),
        ("a\ud800b", "control_characters", "U+D800"),
        ("so FORBIDDEN!", "block_list", "text 2 holds a word that is not allowed here: rephrase it"),
        ("these are very bad  words", "block_list", "rephrase"),
    ],
)
def test_texts_that_break_a_rule_are_refused(
    text: str, rule: str, message: str, classifier: httpx.Client
) -> None:
    body = json.dumps({"inputs": ["def\tvalue\r\n", text]})
    refused(classifier.post("/invocations", content=body, headers=JSON), 400, rule, message)


def test_personal_data_never_reaches_the_model(classifier: httpx.Client, models: dict[str, Path]) -> None:
    text = "write to jane.doe@example.com or 46.5.21.137"
    (answer,) = ask(classifier, text).json()["predictions"]
    assert answer["text"] == "write to <email> or <ip-address>"
    with serving(models["classification"], mask_personal_data=False) as client:
        assert ask(client, text).json()["predictions"][0]["text"] == text


@pytest.mark.parametrize(
    ("content", "kind", "status", "rule"),
    [
        (b"{", "application/json", 400, "form"),
        (b"[" * 1900, "application/json", 400, "form"),
        (b'"inputs"', "application/json", 400, "form"),
        (b'["inputs"]', "application/json", 400, "form"),
        (b"3", "application/json", 400, "form"),
        (b'{"inputs": [1]}', "application/json", 400, "form"),
        (b'{"inputs": [], "instances": []}', "application/json", 400, "form"),
        (b'{"messages": [{"content": "x"}]}', "application/json", 400, "form"),
        (b'{"inputs": ["x"], "other": 1}', "application/json", 400, "form"),
        (b'{"inputs": ["x"], "params": {"tokens": 1}}', "application/json", 400, "params"),
        (b'{"inputs": []}', "application/json", 400, "texts"),
        (b'{"inputs": ["x", "x", "x", "x"]}', "application/json", 400, "texts"),
        (b'{"inputs": ["' + b"x" * 2000 + b'"]}', "application/json", 413, "most_body_bytes"),
        (b"text\nx\n", "text/csv", 415, "form"),
        (b"PAR1", "application/vnd.apache.parquet", 415, "form"),
    ],
)
def test_requests_of_another_form_are_refused(
    content: bytes, kind: str, status: int, rule: str, classifier: httpx.Client
) -> None:
    answer = classifier.post("/invocations", content=content, headers={"Content-Type": kind})
    refused(answer, status, rule, "")


def test_what_the_model_cannot_answer_is_said_without_a_trace(models: dict[str, Path]) -> None:
    with serving(models["masked"]) as client:
        refused(ask(client, "[MASK]", "no gap"), 400, "model", "text 2: there is no gap to fill in 'no gap'")


def test_a_page_of_another_site_cannot_call_it(classifier: httpx.Client) -> None:
    answer = classifier.post("/invocations", json={"inputs": ["x"]}, headers={"Host": "evil.example"})
    refused(answer, 400, "host", "use 127.0.0.1")
    assert classifier.get("/health", headers={"Host": "evil.example:5001"}).status_code == 400


def test_a_body_without_end_is_cut_off(classifier: httpx.Client) -> None:
    """Without its length before it, a gigabyte would be read; memory stays, and the answer comes at once."""
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1_000_000
            yield b"x" * 1_000_000

    before = psutil.Process().memory_info().rss
    try:
        answer = classifier.post("/invocations", content=pieces(), headers=JSON)
        refused(answer, 413, "most_body_bytes", "2,000 bytes")
    except httpx.TransportError:
        pass  # the connection is closed while the client still writes
    assert sent < 100_000_000
    assert psutil.Process().memory_info().rss - before < 100_000_000


def test_a_client_that_asks_too_much_at_once_is_told_to_come_again(models: dict[str, Path]) -> None:
    with serving(models["causal"], most_at_once=2) as client, ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(ask, client, "def", tokens=200, temperature=0) for _ in range(12)]
        found = [call.result() for call in calls]
        assert {answer.status_code for answer in found} == {200, 429}
        busy = next(answer for answer in found if answer.status_code == 429)
        refused(busy, 429, "most_at_once", "2 requests are in work already: try again in a second")
        assert busy.headers["retry-after"] == "1"
        assert ask(client, "def", tokens=1).status_code == 200


def test_a_bad_block_list_stops_it_at_the_start(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("no.txt", "empty.txt"):
        with pytest.raises(InputError, match=name):
            app_of(models["causal"], Limits(block_list=tmp_path / name))


@pytest.mark.slow
def test_the_command_serves_on_loopback_until_ctrl_c(models: dict[str, Path], tmp_path: Path) -> None:
    with bound_socket(None, "--port") as taken:
        port = taken.getsockname()[1]
    command = ["serve", str(models["classification"]), "--port", str(port), "--home", str(tmp_path / "home")]
    errors = tmp_path / "errors"
    with errors.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "flows", *command], stderr=log, env={**os.environ})
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.1)
        answer = httpx.post(f"http://127.0.0.1:{port}/invocations", json={"inputs": ["def class key"]})
        assert answer.json()["predictions"][0]["text"] == "def class key"
        addresses = {
            one.laddr.ip for one in psutil.Process(process.pid).net_connections() if one.status == "LISTEN"
        }
        assert addresses == {"127.0.0.1"}
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
    said = errors.read_text()
    assert f"Serving a classifier ({models['classification']}) at http://127.0.0.1:{port}/invocations" in said
    assert "Traceback" not in said
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
