"""Personal data in a text: found by exact rules, then masked or removed.

Every kind has a cheap look for what it cannot be without (an `@`, a run of digits, the beginning of a key), and
checks what it finds. Names of people and places are not found: that takes a model, at a hundredth of the speed.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from pydantic import Field

from tasks.addresses import email_addresses, ip_addresses
from tasks.keys import keys
from tasks.phones import Span, card_numbers, phone_numbers, runs_of_digits
from tasks.text import Outcome, Text
from training.config import Choice

Kind = Literal["key", "email", "ip_address", "card_number", "phone_number"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # where two overlap, the earlier one has it
NAMES: dict[Kind, str] = {
    "key": "key or token",
    "email": "e-mail address",
    "ip_address": "IP address",
    "card_number": "card number",
    "phone_number": "phone number",
}
PLACEHOLDERS: dict[Kind, str] = {
    "key": "<key>",
    "email": "<email>",
    "ip_address": "<ip-address>",
    "card_number": "<card-number>",
    "phone_number": "<phone-number>",
}


ROUNDS = 8  # of looking again; two are enough for any text that is not made to need more


class Item(NamedTuple):
    """Personal data from `start` to `end` of a text."""

    start: int
    end: int
    kind: Kind


class PersonalData(Choice):
    """Masks or removes e-mail and IP addresses, phone and card numbers, keys and tokens."""

    kind: Literal["personal_data"] = "personal_data"
    kinds: tuple[Kind, ...] = Field(
        default=KINDS,
        min_length=1,
        description="What is looked for. In code, an ip_address may be a version of four numbers; a phone_number that"
        " stands alone in a table of numbers is lost. Phone numbers cost the most time.",
    )
    action: Literal["replace", "remove"] = Field(
        default="replace",
        description="replace: the model learns that, say, <email> stands there, and may write it. remove: sentences"
        " lose a word.",
    )

    def apply(self, text: Text) -> Outcome:
        """The text without its personal data; what was found is named in the changes."""
        result, found = _without(text, self.kinds, PLACEHOLDERS if self.action == "replace" else {})
        done = "masked" if self.action == "replace" else "removed"
        changes = tuple(f"{NAMES[kind]} {done}" for kind in KINDS if kind in found)
        return Outcome(Text(result) if changes else text, changes)


def masked(text: str) -> str:
    """The text with all kinds of personal data replaced, for readers of a report."""
    return _without(text, KINDS, PLACEHOLDERS)[0]


def personal_data(text: str, kinds: Iterable[Kind] = KINDS) -> list[Item]:
    """Personal data of these kinds, in order, without overlaps."""
    wanted = set(kinds)
    runs = runs_of_digits(text) if wanted & {"card_number", "phone_number"} else []
    items = list[Item]()
    for kind in KINDS:
        if kind in wanted:
            items += [Item(start, end, kind) for start, end in _spans(text, kind, runs)]
    return _apart(items)


def _spans(text: str, kind: Kind, runs: list[Span]) -> Iterable[Span]:
    match kind:
        case "key":
            return keys(text)
        case "email":
            return email_addresses(text)
        case "ip_address":
            return ip_addresses(text)
        case "card_number":
            return card_numbers(text, runs)
        case "phone_number":
            return phone_numbers(text, runs)


def _apart(items: list[Item]) -> list[Item]:
    """The items in order; of two that overlap, the one of the earlier kind, or the longer one."""
    kept = list[Item]()
    for item in sorted(items):
        if kept and item.start < kept[-1].end:
            kept[-1] = min(kept[-1], item, key=lambda one: (KINDS.index(one.kind), one.start - one.end))
        else:
            kept.append(item)
    return kept


def _without(text: str, kinds: Iterable[Kind], placeholders: dict[Kind, str]) -> tuple[str, set[Kind]]:
    """The text with its items replaced, and their kinds.

    Looks again at what it made, as one number may have hidden another one beside it.
    """
    found = set[Kind]()
    for _ in range(ROUNDS):
        items = personal_data(text, kinds)
        if not items:
            break
        pieces, reached = list[str](), 0
        for start, end, kind in items:
            pieces += [text[reached:start], placeholders.get(kind, "")]
            reached = end
            found.add(kind)
        text = "".join([*pieces, text[reached:]])
    return text, found
