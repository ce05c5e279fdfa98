"""What a served model lets in: whose requests, how large, how many at once, and which texts."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tasks.personal import PersonalData
from tasks.text import Text
from tasks.toxic import ToxicWords
from tasks.writing import Wish
from training.config import Section
from training.model import Head

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

BODY_SECONDS = 10.0  # for a request to arrive whole
# What no text needs: all but tab and line ends; and what turns the order of letters round, which hides words.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMS = ("inputs", "instances", "dataframe_records", "dataframe_split")
FORM = 'send JSON such as {"inputs": ["a text", "another"]}'


class Limits(Section):
    """What a served model accepts."""

    most_characters: int = Field(default=10_000, ge=1, description="Of a text. Longer ones are refused.")
    most_texts: int = Field(default=64, ge=1, description="Of a request. Each costs time and memory.")
    most_tokens: int = Field(default=256, ge=1, description="That a request may have written for each text.")
    most_body_bytes: int = Field(default=1_000_000, ge=100, description="Of a request, as it arrives.")
    most_at_once: int = Field(default=8, ge=1, description="Requests in work; others are told to come again.")
    block_list: Path | None = Field(
        default=None, description="A file with a word or phrase a line; a text with one is refused."
    )
    mask_personal_data: bool = Field(
        default=True,
        description="E-mail addresses, phone numbers, keys and so on become <email>, ... for the model.",
    )


class Refusal(Exception):
    """A request that is not let in: the HTTP status, the rule, and what to do, in one line."""

    def __init__(self, status: int, rule: str, message: str) -> None:
        super().__init__(message)
        self.status, self.rule, self.message = status, rule, " ".join(message.split())


class Asked(Section):
    """What a request may say beside its texts, to a model that writes."""

    tokens: int = Field(default=100, ge=1)
    temperature: float = Field(default=0.8, ge=0, le=5)
    top_k: int = Field(default=50, ge=0)
    seed: int | None = Field(default=None, ge=0, lt=2**63)

    def wish(self) -> Wish:
        return Wish(self.tokens, self.temperature, self.top_k, self.seed)


class Rules:
    """The rules that texts are held to, one after the other; the first that is broken is told."""

    def __init__(self, limits: Limits, head: Head) -> None:
        """Raises InputError for a block list that cannot be read, or is empty."""
        self._limits, self._head = limits, head
        self._blocked = ToxicWords(path=str(limits.block_list)) if limits.block_list else None
        self._personal = PersonalData()
        if self._blocked:
            self._blocked.check()

    def let_in(self, body: bytes) -> dict[str, Any]:
        """`inputs`, the texts as the model may read them, and `params`. Raises Refusal."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            raise Refusal(400, "form", f"the request is no JSON: {FORM}") from None
        texts = _texts(asked)
        if not 1 <= len(texts) <= self._limits.most_texts:
            most = self._limits.most_texts
            raise Refusal(400, "texts", f"{len(texts):,} texts in one request: send 1 to {most:,}")
        params = asked.get("params") or {}
        return {
            "inputs": [self._text(n, text) for n, text in enumerate(texts, 1)],
            "params": self._asked(params),
        }

    def _text(self, number: int, text: str) -> str:
        most = self._limits.most_characters
        if len(text) > most:
            told = f"text {number} has {len(text):,} characters, and {most:,} are allowed: shorten it"
            raise Refusal(400, "length", told)
        if found := CONTROL.search(text):
            told = f"text {number} holds the control character U+{ord(found[0]):04X}: take it out"
            raise Refusal(400, "control_characters", told)
        if self._blocked and self._blocked.reason(Text(text)):
            raise Refusal(
                400, "block_list", f"text {number} holds a word that is not allowed here: rephrase it"
            )
        return str(self._personal.apply(Text(text)).text) if self._limits.mask_personal_data else text

    def _asked(self, params: Any) -> dict[str, Any]:
        if self._head != "causal":
            if params:
                raise Refusal(400, "params", "this model takes no params: leave them out")
            return {}
        try:
            asked = Asked.model_validate(params)
            if "tokens" not in asked.model_fields_set:
                asked = asked.model_copy(update={"tokens": min(asked.tokens, self._limits.most_tokens)})
        except ValidationError as problem:
            first = problem.errors()[0]
            where = ".".join(map(str, first["loc"])) or "params"
            known = ", ".join(Asked.model_fields)
            raise Refusal(400, "params", f"params: {where}: {first['msg']}; there are {known}") from None
        if asked.tokens > self._limits.most_tokens:
            most = self._limits.most_tokens
            raise Refusal(400, "params", f"params: tokens may be {most:,} at most, and are {asked.tokens:,}")
        return asked.model_dump(exclude_none=True)


def _texts(asked: Any) -> list[str]:
    """The texts of a request, in any of the forms that MLflow's clients send. Raises Refusal."""
    said = asked if isinstance(asked, dict) else {}
    forms = [name for name in FORMS if name in said]
    if len(forms) != 1 or set(said) - {*forms, "params"}:
        raise Refusal(400, "form", f"the request has another form than is known: {FORM}")
    found = said[forms[0]]
    if isinstance(found, dict):
        found = found.get("data" if forms[0] == "dataframe_split" else "text")
    rows = [_cell(row) for row in found] if isinstance(found, list) else [found]
    if not all(isinstance(one, str) for one in rows):
        raise Refusal(400, "form", f"the texts of the request are none: {FORM}")
    return rows


def _cell(row: Any) -> Any:
    """The one value of a row; a row of several has none."""
    values = list(row.values()) if isinstance(row, dict) else row if isinstance(row, list) else [row]
    return values[0] if len(values) == 1 else None


class Door:
    """ASGI middleware before MLflow's app: what passes it is small, whole, and held to the rules."""

    def __init__(
        self, app: App, rules: Rules, limits: Limits, hosts: frozenset[str], in_work: Callable[[], int]
    ) -> None:
        self._app, self._rules, self._limits, self._hosts = app, rules, limits, hosts
        self._in_work, self._inside = in_work, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
            }
            self._check_host(headers.get("host", ""))
            if scope["path"] != "/invocations":
                await self._app(scope, _nothing, send)
                return
            await self._invoke(scope, headers, receive, send)
        except Refusal as refusal:
            await _answer(send, refusal.status, {"rule": refusal.rule, "message": refusal.message})

    async def _invoke(self, scope: Message, headers: dict[str, str], receive: Receive, send: Send) -> None:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "form", f"the request is not of type application/json: {FORM}")
        if max(self._inside, self._in_work()) >= self._limits.most_at_once:
            most = self._limits.most_at_once
            raise Refusal(429, "most_at_once", f"{most} requests are in work already: try again in a second")
        self._inside += 1
        try:
            body = await self._body(headers, receive)
            checked = await asyncio.to_thread(self._rules.let_in, body)
            await self._app(scope, _whole(json.dumps(checked).encode()), _Told(send))
        finally:
            self._inside -= 1

    def _check_host(self, host: str) -> None:
        """A page of another site that has its name lead here is no user of this machine."""
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if self._hosts and name.lower() not in self._hosts:
            raise Refusal(400, "host", f"the host {name[:80]!r} is not this machine: use {min(self._hosts)}")

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        most, pieces, length = self._limits.most_body_bytes, list[bytes](), 0
        large = Refusal(413, "most_body_bytes", f"the request has more than {most:,} bytes: send fewer texts")
        stated = headers.get("content-length", "")
        if stated.isdecimal() and int(stated[:20]) > most:
            raise large
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "form", "the request broke off")
                    pieces.append(message.get("body", b""))
                    length += len(pieces[-1])
                    if length > most:
                        raise large
                    if not message.get("more_body"):
                        return b"".join(pieces)
        except TimeoutError:
            told = f"the request did not arrive within {BODY_SECONDS:g} s: send it at once"
            raise Refusal(408, "form", told) from None


class _Told:
    """Passes an answer on; of an error only its message, without stack traces and what was sent."""

    def __init__(self, send: Send) -> None:
        self._send, self._status = send, 200
        self._pieces: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        if self._status < 400:
            await self._send(message)
        elif message["type"] == "http.response.body":
            self._pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                told = {"rule": "model", "message": _reason(b"".join(self._pieces), self._status)}
                await _answer(self._send, self._status, told)


def _reason(body: bytes, status: int) -> str:
    """What the model said was wrong; MLflow puts it behind all that was sent."""
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return "it took too long: send fewer texts" if status == 504 else "the model failed"
    _, mark, why = said.rpartition("\nError: ")
    return " ".join(why.split()) if mark else "the model failed"


async def _answer(send: Send, status: int, told: dict[str, str]) -> None:
    body = (
        json.dumps({"error_code": "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR", **told}).encode()
        + b"\n"
    )
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"retry-after", b"1")] * (status == 429) + [(b"connection", b"close")] * (
        status in (408, 413)
    )
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _whole(body: bytes) -> Receive:
    """What is received by who comes after the door: the body, and then nothing more."""
    waiting = [body]

    async def receive() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("nothing comes after this")

    return receive
