"""Personal data is found where it is, and not where something only looks like it."""

from typing import get_args

import pytest

from tasks.personal import KINDS, NAMES, PLACEHOLDERS, Kind, PersonalData, masked, personal_data
from tasks.text import Text
from tests.benchmarks.data_personal import score_personal

FOUND: dict[Kind, list[str]] = {
    "email": [
        "Write to [jo.doe+news@mail.example.org].",
        "Mail: [O'Neil_99@EXAMPLE.COM], please",
        "[jo.doe [at] example [dot] org]",
        "<a href='mailto:[jo@example.museum]?subject=x'>",
        "邮箱：[jo@example.cn]，谢谢",
        "[{smith,jones}@cs.example.edu]",
    ],
    "ip_address": [
        "from [8.34.208.12] port 22",
        "http://[8.34.208.12]:8080/",
        "allow [8.34.208.0]/24;",
        "[2a00:1450:4001:81b::200e]",
        "ip6:[2600:1f18:64f7::fe6d] -all",
    ],
    "phone_number": [
        "Call [+49 (0)30 1234567].",
        "at [(415) 555-2671] or [1-800-555-0199]",
        "[020 7946 0958] is ours",
        "ring [01 42 68 53 00]!",
        "Tel.: [5551234]",
        "my mobile number is [98765 43210]",
        "联系人[13812345678]。",
        "[+44\u00a020\u00a07946\u00a00958]",
    ],
    "card_number": [
        "VISA [4111 1111 1111 1111], 09/27",
        "amex [3782-822463-10005]",
        '"card": "[5555555555554444]"',
    ],
    "key": [
        "export KEY=[AKIAIOSFODNN7EXAMPLE]",
        'api_key = "[9f86d081884c7d659a2feaa0c55ad015]"',
        "Authorization: Bearer [a8f5f167f44f4964e6c998dee827110c]",
        "[ghp" + "_16C7e42F292c6912E7710c838347Ae178B4a]",
        "postgres://jo:[hunter2!]@db.example.com/x",
        "[-----BEGIN RSA PRIVATE" + " KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----]",
    ],
}
NOTHING = [
    "version 12.4.5.18, v8.34.208.12, 1.2.3.4, Chrome/91.0.44.124, ==12.4.127.1",
    "127.0.0.1 0.0.0.0 192.168.1.20 203.0.113.5 fe80::1 2001:db8::1",
    "std::vector<a::b> dead::beef 12:30:45 AA:BB:CC:DD:EE:FF",
    "2019-05-17 10:20:30, 12.05.2019 14.30, 1558086030.123456, 2012-2015",
    "on 02 03 2023 10 people; Fax 01.02.2023; phone 2012-2015; Tel 2023-01-02",
    "ISBN 978-3-16-148410-0, 0-306-40615-2, doi:10.1038/s41586-020-2649-2",
    "3.14159265358979323846264338327950288, +40.6894-074.0447",
    "0123 4567 8901 2345 6789\n415 555 2671 4455\n01 02 03 04 05",
    "550e8400-e29b-41d4-a716-446655440000 da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "4111 1111 1111 1112, 4503599627370496",
    "logo@2x.png a@b.T this@Main.name pkg@1.2.3 jo@localhost git@github.com:jo/x.git @property",
    'api_key = os.environ["API_KEY"]; token = "YOUR_TOKEN_GOES_HERE_1234"; key: xxxxxxxxxxxxxxxxxxxxxxxx',
    'if "-----BEGIN PRIVATE KEY-----" in text and "-----END PRIVATE KEY-----" in text:',
]


def test_every_kind_has_a_name_a_placeholder_and_examples() -> None:
    assert set(NAMES) == set(PLACEHOLDERS) == set(FOUND) == set(get_args(Kind))


@pytest.mark.parametrize(("kind", "example"), [(kind, one) for kind in KINDS for one in FOUND[kind]])
def test_an_item_is_masked_exactly(kind: Kind, example: str) -> None:
    escaped = example.replace(" [at] ", "\0").replace(" [dot] ", "\1")
    shown, hidden = escaped.split("]"), [piece.partition("[")[0] for piece in escaped.split("]")]
    text = "".join(piece.replace("[", "") for piece in shown)
    text = text.replace("\0", " [at] ").replace("\1", " [dot] ")
    expected = PLACEHOLDERS[kind].join(hidden)
    assert masked(text) == expected
    outcome = PersonalData(kinds=(kind,)).apply(Text(text))
    assert (outcome.text, outcome.changes) == (expected, (f"{NAMES[kind]} masked",))
    removed = PersonalData(kinds=(kind,), action="remove").apply(Text(text))
    assert (removed.text, removed.changes) == ("".join(hidden), (f"{NAMES[kind]} removed",))
    others = tuple(other for other in KINDS if other != kind)
    assert not {item.kind for item in personal_data(text, others)} & {kind}


@pytest.mark.parametrize("text", NOTHING)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert [text[item.start : item.end] for item in personal_data(text)] == []


def test_changes_name_each_kind_once() -> None:
    outcome = PersonalData().apply(Text("a@example.org, b@example.org, Tel: 5551234"))
    assert outcome.text == "<email>, <email>, Tel: <phone-number>"
    assert outcome.changes == ("e-mail address masked", "phone number masked")


def test_nothing_is_left_where_one_item_hid_another() -> None:
    assert masked("2000:0::0@0.org") == "<ip-address><email>"


def test_recall_and_precision_over_many_notations() -> None:
    said: list[str] = []
    scores = score_personal(seed=5, count=1500, say=said.append)
    found = sum(score.found for score in scores.values())
    assert found / sum(score.planted for score in scores.values()) >= 0.985, said[:20]
    assert found / (found + sum(score.false for score in scores.values())) >= 0.98, said[:20]
