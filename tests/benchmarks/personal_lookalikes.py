"""Sentences that look as if they held personal data, and hold none; written from what texts and programs look like."""

import random
import string
import uuid
from collections.abc import Callable

from tests.benchmarks.personal_items import COMPANIES, FIRST
from tests.benchmarks.personal_keys import ALNUM, check_digit

HEX = "0123456789abcdef"
NAMES = "cache index layer model session user order batch token config stream frame shard queue parser"
WORDS = NAMES.split()


def lookalike(chance: random.Random) -> str:
    """A sentence, a line or a few that must stay as they are."""
    return chance.choice(MAKERS)(chance)


def _chars(chance: random.Random, alphabet: str, count: int) -> str:
    return "".join(chance.choices(alphabet, k=count))


def _digits(chance: random.Random, shape: str) -> str:
    """Every `#` of the shape a digit, every `N` one from 1 to 9."""
    return "".join(chance.choice({"#": string.digits, "N": "123456789"}.get(sign, sign)) for sign in shape)


def _version(chance: random.Random) -> str:
    three = f"{chance.randrange(30)}.{chance.randrange(60)}.{chance.randrange(200)}"
    four = f"{three}.{chance.randrange(200)}"
    name = chance.choice(COMPANIES)
    return chance.choice(
        [
            f"Fixed in version {four}.",
            f"{name}=={three}",
            f"{name}>={four},<99",
            f'"version": "{four}",',
            f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/{four} Safari/537.36",
            f"{name}-{four}.tar.gz",
            f"lib{name}.so.{four}",
            f"v{four} (released 2021-03-04)",
            f"git tag v{three}",
            f'<Reference Include="{name}, Version={four}, Culture=neutral" />',
            f"Release {four} fixes this",
            f"sudo apt install {name}={four}-1ubuntu2",
            f"npm i {name}@{three}",
            f"implementation 'com.{name}:core:{three}'",
            f"see section {chance.randrange(1, 12)}.{chance.randrange(9)}.{chance.randrange(20)}.{chance.randrange(9)}",
            f"upgraded from {four} to {three}.{chance.randrange(200)}",
            f"OID 1.3.6.1.4.1.{chance.randrange(99999)}.1.2",
            f"firmware {four} is out",
        ]
    )


def _date(chance: random.Random) -> str:
    year, month, day = chance.randrange(1950, 2026), chance.randrange(1, 13), chance.randrange(1, 29)
    hour, minute, second = chance.randrange(24), chance.randrange(60), chance.randrange(60)
    return chance.choice(
        [
            f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{chance.randrange(10**6):06}+00:00",
            f"{day:02}.{month:02}.{year} {hour:02}:{minute:02}",
            f"{day:02}/{month:02}/{year}",
            f"{month}/{day}/{year} at {hour}:{minute:02}",
            f"on {day:02}-{month:02}-{year} and {day:02}-{month:02}-{year + 1}",
            f"[{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02},{chance.randrange(1000):03}] INFO started",
            f"img_{year}{month:02}{day:02}_{hour:02}{minute:02}{second:02}.jpg",
            f"DateTimeOriginal: {year}:{month:02}:{day:02} {hour:02}:{minute:02}:{second:02}",
            f"({year}-{year + 4}; see also {year - 9}–{year})",
            f"timestamp: {chance.randrange(10**9, 2 * 10**9)}",
            f"ts={chance.randrange(10**12, 2 * 10**12)}",
            f"time {chance.randrange(10**9, 2 * 10**9)}.{chance.randrange(10**6)}",
            f"open {hour:02}:{minute:02}-{hour:02}:{second:02}, {hour:02}.{minute:02} - {hour:02}.{second:02}",
            f"{year}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z",
            f"took 0:{minute:02}:{second:02}.{chance.randrange(10**6):06}",
            f"season {year}/{year % 100 + 1}, week {day}",
            f"{day} {month} {year}",
        ]
    )


def isbn13(chance: random.Random) -> str:
    """Thirteen digits with the right check digit."""
    body = "978" + _digits(chance, "#########")
    return body + str(-sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(body)) % 10)


def _identifier(chance: random.Random) -> str:
    isbn = isbn13(chance)
    imei = _digits(chance, "35##############"[:14])
    name = uuid.UUID(int=chance.getrandbits(128), version=4)
    return chance.choice(
        [
            f"ISBN {isbn}",
            f"ISBN: {isbn[:3]}-{isbn[3]}-{isbn[4:7]}-{isbn[7:12]}-{isbn[12]}",
            f"ISBN-10 {isbn[3]}-{isbn[4:7]}-{isbn[7:12]}-X",
            f"ISBN {isbn[:3]} {isbn[3]} {isbn[4:8]} {isbn[8:12]} {isbn[12]}",
            f"ISSN {_digits(chance, '####-####')}",
            f"doi:10.{_digits(chance, '####')}/s{_digits(chance, '#####-0##-####-#')}",
            f"arXiv:{_digits(chance, '2###.1####')}v2",
            f"id: {name}",
            f'"request_id": "{name}"',
            f"urn:uuid:{name}",
            f"EAN {isbn}",
            f"IMEI {imei}{check_digit(imei)}",
            f"IBAN DE{_digits(chance, '## #### #### #### #### ##')}",
            f"IBAN GB{_digits(chance, '##')} WEST {_digits(chance, '#### #### #### ##')}",
            f"Boston, MA {_digits(chance, '0NN##-####')}",
            f"order #{_digits(chance, 'N#########')} shipped",
            f"tracking no. 1Z{_digits(chance, '999AA1##########')}",
            f"https://acme.test/item/{_digits(chance, 'N###########')}?ref=a",
            f"tweet {_digits(chance, '1#################')}",
            f"PMID: {_digits(chance, 'N#######')}; PMCID: PMC{_digits(chance, 'N######')}",
            f"RFC {_digits(chance, 'N###')}, pp. {_digits(chance, '1##-2##')}",
            f"part no. {_digits(chance, '90###-####')}-B",
            f"VAT DE{_digits(chance, 'N########')}",
            f"case no. {_digits(chance, '2:1#-cv-0####')}",
            f"user_id={_digits(chance, 'N#######')}",
            f"(US patent {_digits(chance, 'N,###,###')})",
        ]
    )


def _hash(chance: random.Random) -> str:
    sha = _chars(chance, HEX, 40)
    long = _chars(chance, HEX, 64)
    return chance.choice(
        [
            f"commit {sha}\nMerge: {sha[:7]} {sha[8:15]}",
            f"sha256:{long}",
            f"    --hash=sha256:{long} \\",
            f"md5 = {sha[:32]}",
            f'"integrity": "sha512-{_chars(chance, ALNUM + "+/", 86)}=="',
            f'ETag: "{sha[:32]}"',
            f"index {sha[:7]}..{sha[7:14]} 100644",
            f"image: acme/web@sha256:{long}",
            f"MAC {':'.join(_chars(chance, HEX, 2) for _ in range(6))}",
            f"MD5:{':'.join(_chars(chance, HEX, 2) for _ in range(16))}",
            f"0x{_chars(chance, HEX, 16)}",
            f"checksum: {long}",
            f"0x{_chars(chance, HEX, 40)} is a wallet",
            f"{_chars(chance, HEX, 8)}: {' '.join(_chars(chance, HEX, 4) for _ in range(8))}  ..a...b.",
            f"color: #{_chars(chance, HEX, 6)}; background: #{_chars(chance, HEX, 3)}",
            f"data:image/png;base64,iVBORw0KGgo{_chars(chance, ALNUM + '+/', 120)}",
            f'"cache_key": "{sha}"',
            f"rev = '{sha}'",
            "-----BEGIN CERTIFICATE-----\n"
            + _chars(chance, ALNUM + "+/", 64)
            + "\n-----END CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----\n" + _chars(chance, ALNUM + "+/", 64) + "\n-----END PUBLIC KEY-----",
            f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{_chars(chance, ALNUM + '+/', 48)} jo@laptop",
        ]
    )


def _number(chance: random.Random) -> str:
    row = [chance.uniform(-100, 100) for _ in range(6)]
    return chance.choice(
        [
            "pi is 3.14159265358979323846264338327950288419716939937510582097494459",
            " ".join(f"{value:.4f}" for value in row),
            "  ".join(f"{value:.6e}" for value in row),
            ", ".join(f"{value:+.9f}" for value in row),
            "\t".join(str(chance.randrange(10**6)) for _ in range(5)),
            " ".join(_digits(chance, chance.choice(["N##", "N###", "0N##"])) for _ in range(8)),
            " ".join(str(chance.randrange(2000, 2030)) for _ in range(4)),
            f"| {_digits(chance, 'N## | N## | N### | N#####')} |",
            f"{_digits(chance, 'N ### ### ###')} euros and $ {_digits(chance, 'N,###,###.##')}",
            f"{_digits(chance, 'N.###.###,##')} €",
            f"lat {chance.uniform(-90, 90):.6f}, lon {chance.uniform(-180, 180):.6f}",
            f"{chance.uniform(10, 90):+.4f}{chance.uniform(-90, -10):.4f}/",
            f"x = {chance.randrange(10**9)} + {chance.randrange(10**9, 10**10)}*y",
            f"seed {chance.randrange(10**8)}",
            f"0x7fff{_chars(chance, HEX, 8)} in main () at main.c:{chance.randrange(999)}",
            f"main.c:{chance.randrange(999)}:{chance.randrange(99)}: error: expected ';'",
            f"pages {_digits(chance, '1##-2##')}, lines {_digits(chance, 'N###–N###')}, items 10-20-30",
            f"MAX = {2 ** chance.randrange(40, 64)}",
            f"[{', '.join(str(chance.randrange(10**7, 10**8)) for _ in range(6))}]",
            f"{_digits(chance, '0.########')} {_digits(chance, '0.########')}",
            f"mortgage {_digits(chance, 'N###-N###-N###')}, box {_digits(chance, 'N#-N#-N#')}",
            f"{_digits(chance, '0N 1# 2# 3# 4#')}: the numbers of the week",
            f"score 21-19 {_digits(chance, '1#-2#')} 21-18, odds {_digits(chance, 'N/N')}",
            f"{_digits(chance, '#######')} bytes, {_digits(chance, 'N#########')} bytes",
            f"pid {_digits(chance, 'N####')} uid {_digits(chance, 'N###')} (core {_digits(chance, 'NN')})",
            f"population (2011) {_digits(chance, 'N## ###')}",
            f"{_digits(chance, 'N########')}",
        ]
    )


def _code(chance: random.Random) -> str:
    one, two = chance.sample(WORDS, 2)
    return chance.choice(
        [
            f"std::vector<std::{one}> {two}; a::b::c(d::e);",
            f"use crate::{one}::{two}; fn f() -> Vec<u8> {{ abc::def() }}",
            f"@{one}.setter\ndef {two}(self) -> None: ...",
            f"@app.route('/{one}')",
            f"li::before {{ content: '{one}' }}",
            f"y = x@{one}.T + (A@B).sum()",
            f"return this@{one.title()}Activity.{two}",
            f"obj@meta.data${one} <- {two}@assays",
            f"icon@2x.png {one}@3x.jpg",
            f"git clone git@github.com:{one}/{two}.git",
            f"ssh deploy@{one}-server-01",
            f"root@{one}:~$ ls",
            f"{one}@localhost, {two}@{one}",
            f"https://git@git.{one}.com/{two}.git",
            "email_pattern = r'[^@]+@[^@]+\\.[^@]+'",
            f"if '@' in {one} and '.' in {two}:",
            f"meet @ {one} bar, 5.30pm",
            f"follow @{one}_{two} and @{one}.{two}",
            f"systemctl status {one}@{two}.service",
            f"at {one}.{two}.Main.run(Main.java:{chance.randrange(999)})",
            f"java.lang.Object@{_chars(chance, HEX, 8)}",
            f"docker pull registry.io/{one}:{chance.randrange(9)}.{chance.randrange(9)}",
            "range(10:20:30) a[1:2:3] {b: c::d} 10:20:30:40",
            f"Psalm 119:{chance.randrange(100)}:2; 2001:3-5; ratio 3:2:1",
            f"look at {one} dot com or at {two}.com",
            f"sort (at) the end [at] index {chance.randrange(99)}",
            f"%{_digits(chance, 'N0')}d %40s &#64 &#{chance.randrange(999)};",
            f"dead::beef cafe::{one} fe80::1 ::1 fd00::{_chars(chance, HEX, 4)} 2001:db8::{chance.randrange(99)}",
            f"listen 127.0.0.1:{chance.randrange(9999)}; bind 0.0.0.0; via 192.168.{chance.randrange(255)}.1",
            f"10.{chance.randrange(255)}.0.7 172.16.{chance.randrange(255)}.9 255.255.255.0 203.0.113.5",
        ]
    )


def _secretless(chance: random.Random) -> str:
    one, two = chance.sample(WORDS, 2)
    sha = _chars(chance, HEX, 40)
    return chance.choice(
        [
            f'api_key = os.environ["{one.upper()}_API_KEY"]',
            'api_key="YOUR_API_KEY_GOES_HERE_1234"',
            "API_KEY=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            f"password: ${{DB_PASSWORD_{one.upper()}_01}}",
            f'token = get_secret("prod/{one}/{two}-credentials-v2")',
            f'secret_name = "{one}-{two}-service-credentials-v2"',
            f'tokenizer = "bert-base-{one}-uncased-finetuned"',
            f'password = getpass("Password for {one}: ")',
            f'access_token = response["{one}_access_token"]',
            f"token_count={_digits(chance, '####################')}",
            f'public_key = "{_chars(chance, ALNUM, 43)}="',
            f'"primary_key": "{one}_{two}_composite_index_2024"',
            f"cache_key = '{one}:{two}:profile:v2:2023-01-01'",
            f".sk-folding-{one} .sk-circle10-delay-{two} {{ animation: sk-bounceDelay-1 }}",
            f"task-{one}-{two}-12345-retry-later-0001",
            "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "ghp_XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
            f"from huggingface_hub import hf_hub_download, hf_{one}_{two}",
            f"hf_{one}.safetensors npm_config_{two}_cache_directory_of_home",
            'if line.startswith("-----BEGIN RSA PRIVATE KEY-----"): end = "-----END RSA PRIVATE KEY-----"',
            f"eyJ is how {one} begins; eyJ.x.y",
            "xoxo, see you-tomorrow-at-the-usual-place-then",
            f"def get_{one}_token(self, secret_key: str = DEFAULT_{two.upper()}_SECRET_KEY_FILE) -> str:",
            f'"{one}TokenExpirationInSecondsMillis2": 3600',
            f"client_secret_path = '/etc/{one}/{two}/client_secret_2023.json'",
            f"mongodb://{one}:<password>@{two}.cluster0.net/db",
            f"postgres://user:password@localhost/{one}",
            f'"secretArn": "arn:aws:secretsmanager:eu-west-1:{_digits(chance, "############")}:secret:{one}"',
            f"token: [{one}, {two}], auth: basic",
            "password_hash_algorithm = 'pbkdf2_sha256_with_salt'",
            f"AKIA is a prefix; ASIA PACIFIC OFFICES OF {one.upper()}",
            f"passwords/{sha}.txt and keys/{sha[:8]}",
        ]
    )


def _prose(chance: random.Random) -> str:
    name = chance.choice(FIRST).title()
    return chance.choice(
        [
            f"Call {chance.randrange(2, 9)} friends and tell them about {name}.",
            f"Call of Duty {_digits(chance, '20##')} sold {_digits(chance, 'N0000000')} copies.",
            f"The phone costs {_digits(chance, 'N##')} euros; fax is dead since {_digits(chance, '199#')}.",
            f"Tel Aviv {_digits(chance, '19##')}-{_digits(chance, '20##')}: a history",
            f"cell {_digits(chance, 'N#')} of {_digits(chance, 'N##')}, mobile users {_digits(chance, 'N,###,###')}",
            f"{name} was born in 1912 and died in 1998 aged 86.",
            f"Room {_digits(chance, 'N##')}, {_digits(chance, '#####')} Berlin, Germany",
            f"between {_digits(chance, 'N## N## and N## ###')} people",
            "In 2019 12 500 000 tonnes, in 2020 13 250 000 tonnes",
            "Smith (2019) 123-145; Jones et al. (1999) 12:34-56",
            f"John 3:16, Genesis 1:1-2:3, Psalm {chance.randrange(1, 150)}:{chance.randrange(1, 20)}",
            f"{name} ran 10.5 km in 0:48:{_digits(chance, '##')}, 4:36 per km.",
            "bus 100, 200, 300; lines 1-2-3; gates 12/14/16",
            f"call 911 or 112; dial 0 for {name}",
            f"paid on 3 12 2020, due 4 1 2021, invoice {_digits(chance, '2020-0####')}",
            f"chapter 12, verses 3-5-7; {_digits(chance, '1##.2##.3##')} hectares",
        ]
    )


MAKERS: list[Callable[[random.Random], str]] = [
    _version, _date, _identifier, _hash, _number, _code, _secretless, _prose
]  # fmt: skip
