"""Passwords, keys and tokens: kept out of what is written down.

`without_secrets` masks them in errors, logs and pages; `holds_secret` refuses them in settings, which Prefect keeps;
`from_environment` puts them into addresses at the moment of opening; `moved_out_of` gives those of servers to the
variables that MLflow and Prefect have for them, so that no address holds one.
"""

import logging
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tasks.keys import keys

MASK = "***"
# //name:password@, but for a name of the environment; a port and a path are none.
LOGIN = re.compile(r"(?<=://)(?!\$\{)[^\s/@:\"']*:(?!\$\{|\d+/)[^\s@\"']+(?=@)")
QUERY = re.compile(
    r"([?&][\w.%-]*(?:sig|signature|token|key|secret|passw(?:or)?d|credential|auth)[\w.%-]*=)(?!\$\{)[^&\s\"']+",
    re.IGNORECASE,
)
# Names of environment variables whose values are secrets.
SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|KEY|API_?KEY|KEY_ID|AUTH_STRING)$"
)
SHORTEST = 6  # characters of a value that is looked for; shorter ones stand in ordinary text
NAMED = re.compile(r"\$\{(\w+)\}")
NO_LOGIN = r"^(?!.*://[^/@:]*:(?!\$\{)[^/@]*@)"  # for forms, which are checked before anything of ours runs
HOW = "holds a password or key, which would be kept and shown: put it into an environment variable, and write ${NAME}"


def without_secrets(text: str) -> str:
    """The text with logins in addresses, signatures, keys and the environment's secrets masked."""
    text = QUERY.sub(rf"\1{MASK}", LOGIN.sub(MASK, text))
    for start, end in sorted(keys(text), reverse=True):
        text = text[:start] + MASK + text[end:]
    for value in _values():
        if value in text:
            text = text.replace(value, MASK)
    return text


def holds_secret(text: str) -> bool:
    """Whether a setting holds a password, a signature or a key, rather than the name of a variable that does."""
    return bool(LOGIN.search(text) or ("://" in text and QUERY.search(text)) or any(True for _ in keys(text)))


def from_environment(address: str) -> str:
    """The address with `${NAME}` replaced by the variable's value. Raises KeyError where there is none."""
    return NAMED.sub(lambda match: os.environ[match[1]], address)


def moved_out_of(address: str, name: str, password: str) -> str:
    """An http address without its login, which the environment variables of these names then hold.

    Where both names are one, it holds name:password.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return address
    login, _, host = parts.netloc.rpartition("@")
    user, _, word = (unquote(part) for part in login.partition(":"))
    held = {name: f"{user}:{word}"} if name == password else {name: user, password: word}
    for variable, value in held.items():
        os.environ.setdefault(variable, value)
    return urlunsplit(parts._replace(netloc=host))


def _values(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The environment's secrets, the longest first; a password beside its user name also alone."""
    found = set[str]()
    for name, value in environment.items():
        if SECRET_NAME.search(name.upper()):
            found |= {value, *value.split(":")} if name.endswith("AUTH_STRING") else {value}
    return sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)


class _Record(logging.LogRecord):
    """A line of a log, or a traceback, without secrets."""

    def getMessage(self) -> str:
        return without_secrets(super().getMessage())

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, without_secrets(value) if name == "exc_text" and value else value)


def guard_logs() -> None:
    """From now on, nothing that this process logs holds a secret; Prefect keeps what its loggers are told."""
    logging.setLogRecordFactory(_Record)
