"""Keys and tokens in a text: what opens an account to whoever reads it."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

Span = tuple[int, int]

# What a key begins with, and what follows, as its issuer gives it out.
ISSUED = {
    "AKIA": "[0-9A-Z]{16}",  # Amazon: of a user, of a session
    "ASIA": "[0-9A-Z]{16}",
    "ghp_": "[0-9A-Za-z]{36,251}",  # GitHub: personal, OAuth, user, server, refresh, fine-grained
    "gho_": "[0-9A-Za-z]{36,251}",
    "ghu_": "[0-9A-Za-z]{36,251}",
    "ghs_": "[0-9A-Za-z]{36,251}",
    "ghr_": "[0-9A-Za-z]{36,251}",
    "github_pat_": "[0-9A-Za-z]{22}_[0-9A-Za-z]{59}",
    "glpat-": r"[\w-]{20,64}",  # GitLab
    "xox": r"[abeoprs]-[\w-]{10,255}",  # Slack
    "xapp-": r"\d-[\w-]{10,255}",
    "AIza": r"[\w-]{35}",  # Google: key, client's secret
    "GOCSPX-": r"[\w-]{28}",
    "sk_live_": "[0-9A-Za-z]{16,247}",  # Stripe: secret, restricted; what begins with pk_ is public
    "sk_test_": "[0-9A-Za-z]{16,247}",
    "rk_live_": "[0-9A-Za-z]{16,247}",
    "rk_test_": "[0-9A-Za-z]{16,247}",
    "eyJ": r"[\w-]{10,}\.(?:eyJ[\w-]{10,}|[\w-]*\.[\w-]+\.[\w-]+)\.[\w-]{10,}",  # JSON Web Token, RFC 7519
    "hf_": "[0-9A-Za-z]{34,40}",  # Hugging Face
    "sk-": r"[\w-]{20,255}",  # OpenAI, and others after it
    "npm_": "[0-9A-Za-z]{36}",
    "pypi-": r"[\w-]{50,255}",
}
STARTS = tuple(ISSUED)
SHAPES = {start: re.compile(rf"{start}({rest})(?![\w-])", re.ASCII) for start, rest in ISSUED.items()}
# All of them begin with a long run of these, of which ordinary text has few; in bytes, with x for each.
RUN_CHARACTERS = 20
RUNS = bytes(ord("x") if chr(code).isalnum() or chr(code) in "_-" else 0 for code in range(128)) + bytes(128)
# And some that do not: what is searched for first, and where the key is.
OTHERS = (
    ("hooks.slack.com/", re.compile(r"hooks\.slack\.com/((?:services|workflows)/[\w/]{20,255})")),
    ("ya29.", re.compile(r"\bya29\.([\w-]{20,2048})")),  # Google's tokens
)

# api_key = "...", "secret": "...", Authorization: Bearer ...
VALUES = [
    re.compile(
        sign + r">?[ \t]{0,4}[\"'`]?(?:(?:Bearer|Basic|Token|token) )?([\w+/.~-]{20,512}={0,2})(?![\w(\[%$])",
        re.ASCII,
    )
    for sign in "=:"
]
NAME_CHARACTERS = 48
HINTS = ("key", "secret", "token", "passw", "passphrase", "credential", "authorization")
NAME = re.compile(
    r"(?:(?:api|access|account|auth|client|encryption|master|private|secret|service|signing|storage)[_-]?key|secret"
    r"|token|passw(?:or)?d|passphrase|credentials?|authorization)[\w-]{0,16}[\"'`\])]{0,2}[ \t]{0,3}\Z"
)  # of small letters
# What tells random values from words and placeholders; of 16 random characters 95 % pass, of 32 over 99 %; by eye.
BITS = 2.75  # of entropy a character; "xxxxxxxx" has 0
SWITCHES = 0.25  # a character, from letters to digits and back, from small to capital letters
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

# https://name:password@host, where the password is more than a word.
LOGIN = re.compile(r"://[^\s/:@\"'<>{}$]{0,64}:(?=[^\s/@]*[0-9!#%&+,;=?^~])([^\s/:@\"'<>{}$*]{6,128})@")

BLOCK = re.compile(r"-----(?P<edge>BEGIN|END) [A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?-----")
BLOCK_CHARACTERS = 65_536
BODY = re.compile(r"[0-9A-Za-z+/=]{16}")  # a line of a key; code that looks for a block has none


def keys(text: str) -> Iterator[Span]:
    """Keys and tokens by their issuers' shapes, private key blocks, random values that a name calls a secret.

    Also passwords within a web address. Taken for none: UUIDs, hashes under other names, placeholders ("xxxxxxxx"),
    words.
    """
    yield from _issued(text)
    yield from _assigned(text)
    if "@" in text:
        for match in LOGIN.finditer(text):
            yield match.span(1)
    if "PRIVATE KEY" in text:
        yield from _blocks(text)


def _issued(text: str) -> Iterator[Span]:
    run = b"x" * RUN_CHARACTERS
    runs = text.encode("latin-1", "replace").translate(RUNS)
    start = runs.find(run)
    while start >= 0:
        end = runs.find(b"\0", start)
        if text.startswith(STARTS, start):
            shape = next(shape for first, shape in SHAPES.items() if text.startswith(first, start))
            match = shape.match(text, start)
            if match and _bits(match[1]) >= BITS and (shape is not SHAPES["sk-"] or _random(match[1])):
                yield match.span()
        start = runs.find(run, end) if end >= 0 else -1
    for hint, other in OTHERS:
        if hint in text:
            yield from (match.span() for match in other.finditer(text) if _bits(match[1]) >= BITS)


def _assigned(text: str) -> Iterator[Span]:
    for values in VALUES:
        for match in values.finditer(text):
            before = text[max(0, match.start() - NAME_CHARACTERS) : match.start()].lower()
            value = match[1]
            named = any(hint in before for hint in HINTS) and NAME.search(before)
            known = value.startswith("0x") or UUID.fullmatch(value)
            if named and not known and _random(value):
                yield match.span(1)


def _blocks(text: str) -> Iterator[Span]:
    begin: re.Match[str] | None = None
    for edge in BLOCK.finditer(text):
        if edge["edge"] == "BEGIN":
            begin = edge
        elif begin and edge.end() - begin.start() < BLOCK_CHARACTERS:
            if BODY.search(text, begin.end(), edge.start()):
                yield begin.start(), edge.end()
            begin = None


def _random(value: str) -> bool:
    """Whether letters and digits of a value follow each other as if by chance."""
    plain = re.sub("[^0-9A-Za-z]", "", value)
    pairs = list(pairwise(plain))
    digits = sum(before.isdigit() != after.isdigit() for before, after in pairs)
    capitals = sum(before.islower() and after.isupper() for before, after in pairs)
    return digits >= 2 and digits + capitals >= SWITCHES * len(pairs) and _bits(plain) >= BITS


def _bits(value: str) -> float:
    """Shannon's entropy of the characters, in bits a character."""
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares)
