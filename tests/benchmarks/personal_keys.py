"""Payment cards' numbers, keys and tokens, made up as their issuers make them, where people and programs write them."""

import base64
import json
import random
import string
from collections.abc import Callable

ALNUM = string.ascii_letters + string.digits
Parts = tuple[str, str, str]  # what is before an item, the item, what is after


def around(chance: random.Random, item: str, frames: list[str]) -> Parts:
    """The item in one of the frames, at its `@@`."""
    before, after = chance.choice(frames).split("@@", 1)
    return before, item, after


def card_number(chance: random.Random) -> Parts:
    """A card's number as people write it."""
    start, length, groups = chance.choice(
        [
            ("4", 16, (4, 4, 4, 4)),
            (str(chance.randrange(51, 56)), 16, (4, 4, 4, 4)),
            (str(chance.randrange(2221, 2721)), 16, (4, 4, 4, 4)),
            (chance.choice(["34", "37"]), 15, (4, 6, 5)),
            (chance.choice(["6011", "65"]), 16, (4, 4, 4, 4)),
            (str(chance.randrange(3528, 3590)), 16, (4, 4, 4, 4)),
            (chance.choice(["36", "38", "300"]), 14, (4, 6, 4)),
            ("62", 16, (4, 4, 4, 4)),
        ]
    )
    body = start + "".join(chance.choices(string.digits, k=length - len(start) - 1))
    digits = body + check_digit(body)
    gap = chance.choice(["", " ", " ", "-"])
    pieces, rest = [], digits
    for size in groups:
        pieces.append(rest[:size])
        rest = rest[size:]
    return around(
        chance,
        gap.join(pieces),
        [
            "Card number: @@, expires 09/27",
            '"card_number": "@@",',
            "I paid with VISA @@ yesterday.",
            "cc=@@&cvv=123",
            "My credit card (@@) was stolen.",
            "PAN @@\n",
            "Kreditkarte @@ gültig bis 11/26",
            "charge(@@)",
            "4 items, @@, Jo Doe",
        ],
    )


def check_digit(body: str) -> str:
    """The digit that makes a card's number valid (Luhn)."""
    total = sum(
        digit if place % 2 else sum(divmod(2 * digit, 10))
        for place, digit in enumerate(map(int, reversed(body)))
    )
    return str(-total % 10)


def _chars(chance: random.Random, alphabet: str, count: int) -> str:
    return "".join(chance.choices(alphabet, k=count))


def issued_key(chance: random.Random) -> str:
    """A key as one of its issuers gives it out."""
    upper = string.ascii_uppercase + "234567"
    hexes = "0123456789abcdef"

    def coded(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    makers: list[Callable[[], str]] = [
        lambda: chance.choice(["AKIA", "ASIA"]) + _chars(chance, upper, 16),
        lambda: chance.choice(["ghp_", "gho_", "ghs_", "ghu_", "ghr_"]) + _chars(chance, ALNUM, 36),
        lambda: f"github_pat_{_chars(chance, ALNUM, 22)}_{_chars(chance, ALNUM, 59)}",
        lambda: (
            f"xoxb-{_chars(chance, string.digits, 12)}-{_chars(chance, string.digits, 12)}-{_chars(chance, ALNUM, 24)}"
        ),
        lambda: (
            f"xoxp-{_chars(chance, string.digits, 11)}-{_chars(chance, string.digits, 11)}-{_chars(chance, hexes, 32)}"
        ),
        lambda: "AIza" + _chars(chance, ALNUM + "-_", 34) + _chars(chance, ALNUM, 1),
        lambda: "GOCSPX-" + _chars(chance, ALNUM + "-_", 27) + _chars(chance, ALNUM, 1),
        lambda: (
            chance.choice(["sk_live_", "rk_live_", "sk_test_"])
            + _chars(chance, ALNUM, chance.choice([24, 99]))
        ),
        lambda: "hf_" + _chars(chance, string.ascii_letters, 34),
        lambda: "sk-" + _chars(chance, ALNUM, 20) + "T3BlbkFJ" + _chars(chance, ALNUM, 20),
        lambda: "sk-proj-" + _chars(chance, ALNUM + "-_", 123) + _chars(chance, ALNUM, 1),
        lambda: "sk-ant-api03-" + _chars(chance, ALNUM + "-_", 93) + "AA",
        lambda: "glpat-" + _chars(chance, ALNUM + "-_", 19) + _chars(chance, ALNUM, 1),
        lambda: "npm_" + _chars(chance, ALNUM, 36),
        lambda: ".".join(
            [
                coded({"alg": chance.choice(["HS256", "RS256"]), "typ": "JWT"}),
                coded(
                    {
                        "sub": _chars(chance, string.digits, 10),
                        "name": chance.choice(["jo", "anna", "raj"]),
                        "iat": 1516239022,
                    }
                ),
                _chars(chance, ALNUM + "-_", 42) + "A",
            ]
        ),
    ]
    return chance.choice(makers)()


def key(chance: random.Random) -> Parts:
    """A key, a token or a private key where programs have them."""
    style = chance.random()
    if style < 0.1:
        what = chance.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"])
        lines = [_chars(chance, ALNUM + "+/", 64) for _ in range(chance.randrange(3, 26))]
        end = chance.choice(["\n", "\\n"])
        block = end.join(
            [f"-----BEGIN {what}-----", *lines, _chars(chance, ALNUM, 31) + "=", f"-----END {what}-----"]
        )
        return around(
            chance, block, ["@@\n", 'KEY = """@@"""', '{"private_key": "@@"}', "id_rsa:\n\n@@\n\nend"]
        )
    if style < 0.6:
        return around(
            chance,
            issued_key(chance),
            [
                "export TOKEN=@@",
                'client = Client("@@")',
                "    key: @@\n",
                "curl -H 'Authorization: Bearer @@' https://api.acme.test/v1",
                "https://api.acme.test/v1?key=@@&page=2",
                "oops, I pushed @@ to the repository",
                '"credentials": ["@@"]',
                "# @@",
                "https://x-access-token:@@@git.acme.test/a.git",
            ],
        )
    value = chance.choice(
        [
            _chars(chance, "0123456789abcdef", chance.choice([32, 40, 64])),
            _chars(chance, ALNUM, chance.choice([20, 24, 32, 40, 48])),
            base64.b64encode(chance.randbytes(chance.choice([24, 30, 32, 48]))).decode(),
            _chars(chance, string.ascii_lowercase + string.digits, chance.choice([25, 32])),
        ]
    )
    return around(
        chance,
        value,
        [
            'api_key = "@@"',
            "API_KEY=@@\nDEBUG=1",
            "'secret_key': '@@',",
            "aws_secret_access_key = @@\n",
            '    "clientSecret": "@@"\n}',
            "const apiKey = '@@';",
            "auth_token: @@\n",
            "https://api.acme.test/v2/x?access_token=@@",
            'os.environ["ACME_API_TOKEN"] = "@@"',
            "password: '@@'",
            "Authorization: Bearer @@\n",
            "set_config(api_key='@@')",
            "X-Api-Key: @@\n",
            'private static final String SECRET = "@@";',
        ],
    )
