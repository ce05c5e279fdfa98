"""Sentences with personal data in them, as people and programs write it; written from what texts look like."""

import ipaddress
import random
import string
from collections.abc import Callable
from typing import NamedTuple

from tasks.personal import Kind
from tests.benchmarks.personal_keys import Parts, around, card_number, key

FIRST_NAMES = (
    "anna john maria peter wei fatima jürgen chloe olga raj sofia kenji liam noor pedro ingrid sean amara luca"
    " d'arcy ana.maria jean-luc mary_ann"
)
LAST_NAMES = (
    "smith mueller garcia chen rossi ivanov patel kim o'brien nielsen dubois tanaka silva kowalski haddad jones"
    " van.dijk okafor lindqvist brown moreau weiss"
)
COMPANY_NAMES = (
    "acme northwind bluefin-labs kraftwerk2 initech globex tri-star hooli umbra alpenglow riverside oakandsons"
    " data-works meridian sunrise polytech jimsplumbing stadtwerke"
)
HOSTS = "gmail.com yahoo.com outlook.com hotmail.co.uk web.de gmx.net icloud.com mail.ru qq.com orange.fr"
RARE = (
    "co.uk edu fr it nl es pl ca io com.au co.jp com.br in gov ch se info eu ac.uk cn dev ai biz us me"
    " berlin photography swiss museum travel studio ngo health"
)
FIRST, LAST, COMPANIES = FIRST_NAMES.split(), LAST_NAMES.split(), COMPANY_NAMES.split()
MAIL_HOSTS = HOSTS.split()
ENDINGS = ["com"] * 30 + ["org"] * 6 + ["net"] * 5 + ["de"] * 5 + RARE.split()


class Planted(NamedTuple):
    """A sentence, and where in it the personal data stands."""

    text: str
    start: int
    end: int
    kind: Kind


def planted(chance: random.Random, kind: Kind) -> Planted:
    """A sentence with one item of the kind."""
    before, item, after = MAKERS[kind](chance)
    return Planted(before + item + after, len(before), len(before) + len(item), kind)


def domain(chance: random.Random) -> str:
    """A company's, a university's or a mail provider's domain."""
    if chance.random() < 0.3:
        return chance.choice(MAIL_HOSTS)
    host = chance.choice(COMPANIES) + (str(chance.randrange(100)) if chance.random() < 0.1 else "")
    below = chance.choice(["mail.", "cs.", "eu.", "it.", "lists."]) if chance.random() < 0.15 else ""
    return f"{below}{host}.{chance.choice(ENDINGS)}"


def _email(chance: random.Random) -> Parts:
    first, last = chance.choice(FIRST), chance.choice(LAST)
    first = first.replace("ü", "ue").replace("'", "")
    name = chance.choice(
        [
            f"{first}.{last}",
            f"{first[0]}{last}".replace("'", ""),
            f"{first}_{last}{chance.randrange(60, 100)}".replace("'", ""),
            f"{first}{chance.randrange(1000)}",
            f"{first}.{last}+{chance.choice(['news', 'shop', 'list2'])}",
            chance.choice(["info", "sales", "support", "office", "no-reply", "hr.department", "privacy"]),
            f"{first.title()}.{last.title()}",
        ]
    )
    host = domain(chance)
    style = chance.random()
    if style < 0.05:
        address = f"{name}[at]{host}" if chance.random() < 0.5 else f"{name} (at) {host}"
    elif style < 0.07:
        address = f"{name} [at] {host.replace('.', ' [dot] ')}"
    elif style < 0.08:
        address = f"{name} AT {host.replace('.', ' DOT ')}"
    elif style < 0.09:
        address = "{" + f"{first},{last}".replace("'", "") + "}@" + host
    elif style < 0.12:
        address = f"{name}@{host}".upper()
    else:
        address = f"{name}@{host}"
    return around(
        chance,
        address,
        [
            "Please write to @@ for details.",
            "Contact: @@\nWe answer within a day.",
            f"From: {first.title()} {last.title()} <@@>\nSubject: Re: minutes",
            "<a href='mailto:@@?subject=Order'>mail us</a>",
            '    "email": "@@",\n    "active": true',
            "# Author: " + first.title() + " <@@>",
            "You can reach me (@@) at any time.",
            "E-Mail: @@, Web: www.oak.test",
            "My address is @@. Yours, M.",
            "__author__ = 'Jo <@@>'",
            "signed-off-by: J. Doe <@@>\n",
            "客服邮箱：@@，请联系我们。",
            "|name|@@|active|",
            "user=@@;role=admin",
            "Tel. und Mail: @@/Büro",
        ],
    )


def _public(chance: random.Random, version: int) -> str:
    while True:
        if version == 4:
            parts = [
                chance.randrange(1, 224),
                *(chance.randrange(256) for _ in range(2)),
                chance.randrange(1, 255),
            ]
            address = ".".join(map(str, parts))
        else:
            prefix = chance.choice(
                [0x2001_0470, 0x2A00_1450, 0x2600_1F18, 0x2606_4700, 0x2003_00E4, 0x240E_0360]
            )
            sparse = chance.random() < 0.5
            low = chance.randrange(1 << 16) if sparse else chance.randrange(1 << 64)
            full = ipaddress.IPv6Address((prefix << 96) | (chance.randrange(1 << 16) << 80) | low)
            address = full.exploded if chance.random() < 0.15 else str(full)
            address = address.upper() if chance.random() < 0.1 else address
        checked = ipaddress.ip_address(address)
        if checked.is_global and not checked.is_multicast:
            return address


def _ip_address(chance: random.Random) -> Parts:
    version = 4 if chance.random() < 0.7 else 6
    frames = [
        "Connection from @@ closed by remote host",
        "ping @@ -c 4",
        '"client_ip": "@@", "status": 200',
        "allow @@/24;" if version == 4 else "allow @@/64;",
        "The server (@@) did not answer.",
        "Accepted publickey for deploy from @@ port 51022 ssh2",
        "- - @@ is listed on two blocklists.",
        "My IP is @@.",
        "Blocked @@, then nothing more was seen.",
        "X-Forwarded-For: @@\r\n",
        "spf: v=spf1 ip4:@@ -all" if version == 4 else "spf: v=spf1 ip6:@@ -all",
        "nameserver @@\nsearch lan",
        "DNS=@@",
        "Received: from mail.acme.test ([@@]) by mx (Postfix)",
    ]
    if version == 4:
        frames += [
            '@@ - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200',
            "http://@@:8080/login",
            "@@:443 refused",
        ]
    else:
        frames += ["http://[@@]:8080/login", "inet6 @@ scope global"]
    return around(chance, _public(chance, version), frames)


# `#` is any digit, `N` one from 2 to 9.
PHONES = (
    "+1 (N##) N##-####|+1-N##-N##-####|+1 N## N## ####|+1N##N######|(N##) N##-####|N##-N##-####"
    "|N##.N##.####|1-8NN-N##-####|(N##)N##-####|N## N## ####|1 (N##) N##-####|+44 20 7### ####"
    "|020 7### ####|+44 7### ######|07### ######|+44 (0)161 N## ####|0161 N## ####|(01632) 96####"
    "|+49 30 N######|030/N######|0171-N######|+49 (0)89 N## ##-##|0N21 / N## ## ##|(089) N#####"
    "|0049 711 N#####|+49151N#######|+33 1 4# ## ## ##|01 4N 3# 2# 1#|06.7#.5#.4#.3#|+33 6 ## ## ## ##"
    "|+34 9N# ## ## ##|+34 6## ### ###|+39 06 6### ####|06 6### ####|+39 3## ### ####|+31 20 N## ####"
    "|020-N######|06-1N######|+32 2 N## ## ##|02 N## ## ##|+41 44 N## ## ##|044 N## ## ##|+43 1 N## ## ##"
    "|+46 8 N## ### ##|08-N## ### ##|+45 N# ## ## ##|+47 N## ## ###|+48 22 N## ## ##|+420 N## ### ###"
    "|+7 (495) N##-##-##|+7 916 N## ## ##|8 (495) N##-##-##|+90 212 N## ## ##|0212 N## ## ##"
    "|+91-98###-#####|+91 22 2### ####|022-2### ####|+86 138 #### ####|138-####-####|010-8###-####"
    "|+81-3-N###-####|03-N###-####|090-N###-####|+82-2-N##-####|02-N##-####|+61 2 9### ####"
    "|(02) 9### ####|04## ### ###|+64 9 N## ####|+55 11 9####-####|(11) 9####-####|(21) 3###-####"
    "|+52 55 5### ####|+54 11 4###-####|+27 21 N## ####|021 N## ####|+234 803 ### ####|+20 2 2### ####"
    "|+972-3-N##-####|03-N##-####|+971 4 N## ####|+65 6### ####|+852 2### ####|+353 1 N## ####"
    "|+351 21 N## ####|+30 210 N## ####|+36 1 N## ####"
)
# These have neither country code nor trunk prefix nor brackets: people know them by the word before, which one in
# ten of them lacks here; then no rule finds them.
SAID_PHONES = (
    "N##-####|N######|9#### #####|6## ## ## ##|N# ## ## ##|N## ## ## ##|N## ### ###|138########|N########"
    "|0N########|N##N######"
)
SAID = [
    "Tel.: @@, Mo-Fr",
    "Phone: @@\n",
    "tel @@ (evenings)",
    "My mobile number is @@.",
    "Teléfono: @@.",
    "Fax @@",
    "Call @@ now!",
    "WhatsApp: @@",
    '"phone": "@@",',
    "Mob: @@ / ask for Jo",
    "☎ @@",
    "phone=@@;",
    "Telefon: @@ und Fax",
    "電話: @@",
]
PLAIN = [
    "You can reach me on @@ after six.",
    "Contact Maria (@@) for tickets.",
    "Jones & Sons, 12 High Street, @@",
    "- plumber: @@\n- doctor: next page",
    "She wrote @@ on the napkin.",
    "Emergency? @@. Otherwise wait.",
    "office @@, ext. 12",
    '<a href="#">@@</a>',
    "| Berlin | @@ | Müller |",
    "Text STOP to @@",
]


def _phone_number(chance: random.Random) -> Parts:
    said = chance.random() < 0.25
    shape = chance.choice((SAID_PHONES if said else PHONES).split("|"))
    digits = {"#": string.digits, "N": "23456789"}
    number = "".join(chance.choice(digits.get(sign, sign)) for sign in shape)
    style = chance.random()
    if style < 0.04:
        number = number.replace(" ", "\u00a0")
    elif style < 0.06:
        number = number.replace("-", "\u2011")
    return around(chance, number, SAID if chance.random() < (0.9 if said else 0.3) else PLAIN)


MAKERS: dict[Kind, Callable[[random.Random], Parts]] = {
    "email": _email,
    "ip_address": _ip_address,
    "phone_number": _phone_number,
    "card_number": card_number,
    "key": key,
}
