"""E-mail and internet addresses in a text."""

import ipaddress
import re
from collections.abc import Iterator

from tasks.phones import SIGN, Span

# Top-level domains of two letters (ISO 3166, as delegated), and the other ones that mail comes from (IANA's root
# zone; of its 1,400 these have nearly all registrations). `x.weight@y.data` in code ends in none of them.
COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz"
    " ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj"
    " fk fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io"
    " iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me"
    " mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf"
    " pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su"
    " sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf"
    " ws ye yt za zm zw"
)
OTHERS = (
    "com org net edu gov mil int info biz name pro mobi jobs travel tel asia cat coop aero museum arpa post"
    " xxx academy agency amsterdam app art associates barcelona bayern berlin best bio blog boston business"
    " buzz cafe capital care careers center chat church city click clinic cloud club coach codes community"
    " company computer consulting cool cymru dance design dental dev digital direct directory education email"
    " energy engineer engineering enterprises equipment estate eus events exchange expert express family farm"
    " fashion finance fitness foundation frl fun fund fyi gal gallery games global gmbh gold graphics group"
    " guide guru hamburg health help holdings host house icu immo inc ink institute international investments"
    " kaufen kim kiwi koeln land law lawyer legal life link live llc loan london love ltd management market"
    " marketing media medical melbourne moe moscow network news ngo nrw nyc ong online ooo page paris"
    " partners parts party photo photography photos pictures place plus press productions properties pub"
    " quebec realestate recipes red ren rent report rest review rocks ruhr saarland sale school science scot"
    " services shop shopping show site social software solutions space store studio style support surf swiss"
    " sydney systems taxi team tech technology tips tirol today tokyo tools top tours town toys training tube"
    " university vegas ventures vet video vip vlaanderen wales wang wien wiki win work works world xyz yoga"
    " zone"
)
TOP = frozenset(COUNTRIES.split()) | frozenset(OTHERS.split())
SURE = {"com", "org", "net", "edu", "gov"}  # in code, `x@y.to(z)` ends in others

LETTER = "0-9A-Za-z\u00c0-\u024f"  # Latin: letters of other scripts stand beside addresses without a blank
LONGEST_LOCAL, LONGEST_DOMAIN = 64, 255  # characters; RFC 5321, 4.5.3.1
LOCAL_BACKWARDS = re.compile(rf"[{LETTER}_.+%-]+(?:'[OoDdLl]\b[{LETTER}_.+%-]*)?")  # o'neil, d'arcy
SEVERAL = re.compile(r"\{[\w.+-]+(?:, ?[\w.+-]+)+\}\Z")  # {one,another}@host.org, as papers have it
LABEL = f"[{LETTER}](?:[{LETTER}-]{{0,61}}[{LETTER}])?"
# Before an `@` in Kotlin, and where code is fetched.
NO_PERSONS = frozenset(("this", "super", "return", "self", "git", "svn", "hg"))

# How an at sign is written, and how it is hidden; each begins with a literal, for which the engine has a fast search.
WRITTEN = ("@", "%40", "&#64;")
HIDDEN = tuple(
    re.compile(sign) for sign in (r"\[ ?(?:at|AT|@) ?\]", r"\( ?(?:at|AT|@) ?\)", r"< ?(?:at|AT) ?>")
)
SPOKEN = (" dot ", re.compile(r" at (?=[\w-]+ dot )")), (" DOT ", re.compile(r" AT (?=[\w-]+ DOT )"))
NO_WORD = re.compile("[0-9._-]")  # in a name before " at ", as "look at example dot com" is no address
DOT = re.compile(r"\.")
HIDDEN_DOT = re.compile(r" ?[\[({<] ?(?:dot|\.) ?[\])}>] ?| dot |\.", re.IGNORECASE)
DOMAINS = {
    dot: re.compile(f"{LABEL}(?:(?:{dot.pattern}){LABEL})+", re.IGNORECASE) for dot in (DOT, HIDDEN_DOT)
}

IPV4_TAIL = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?!" + SIGN + r"|-(?!\d{1,3}\.)|\.\w)")
IPV4_HEAD = re.compile(rf"(?<!{SIGN})(?<!\.)(?<![A-Za-z]-)[0-9]{{1,3}}\Z")
IPV6_PART = re.compile(":[0-9A-Fa-f]{0,4}(?=:)")
# Of what is given out, 2000::/3 (RFC 4291, 2.4).
IPV6_HEAD = re.compile(r"(?:(?<![\w:.-])|(?<=[g-zG-Z]:)|(?<=[pv]6:))[23][0-9A-Fa-f]{3}\Z")
IPV6_TAIL = re.compile(r"(?::[0-9A-Fa-f]{0,4}){2,8}(?![\w:])")

# Before four numbers that are a version of software, a section of a text, an object identifier, a drawing's path.
COUNTED_BEFORE = 40  # characters
COUNTED = re.compile(
    r"(?:(?:(?:version|release|build|firmware|driver|update|section|chapter|clause|article|appendix|table|figure)s?|§"
    r"|\b(?:v|ver|rev|oid|oracle|chrome|firefox|player|reader|office|windows))[\w.]{0,3}[\s:=\"'(]{0,4}"
    r"|(?:upgrad|downgrad|updat|bump|patch)\w{0,3} (?:[\w.-]+ ){0,2}(?:from|to) (?:[\d.]+ to )?"
    r"|[~=<>!]=\s?|[A-Za-z]/|(?<![\d.])\d*\.\d{1,4}[ ,])\Z",
    re.IGNORECASE,
)


def email_addresses(text: str) -> Iterator[Span]:
    """E-mail addresses, also those written as `name [at] domain [dot] com`.

    Taken for none: what ends in no top-level domain (`logo@2x.png`, `x@y.T`), and whom a program logs in as
    (`git@host.org:path`, `https://name@host.org`).
    """
    for sign in WRITTEN:
        start = text.find(sign)
        while start >= 0:
            span = _address(text, start, start + len(sign), DOT)
            if span:
                yield span
            start = text.find(sign, span[1] if span else start + 1)
    hidden = [*HIDDEN, *(sign for dot, sign in SPOKEN if dot in text)]
    for match in (match for sign in hidden for match in sign.finditer(text)):
        low, high = match.span()
        low -= text[low - 1 : low] == " "
        span = _address(text, low, high + (text[high : high + 1] == " "), HIDDEN_DOT)
        if span and (match[0] != " at " or NO_WORD.search(text, span[0], low)):
            yield span


def _address(text: str, start: int, end: int, dot: re.Pattern[str]) -> Span | None:
    """The address around the at sign from `start` to `end`, or None."""
    domain = DOMAINS[dot].match(text, end, end + LONGEST_DOMAIN)
    begin = _local(text, start)
    if domain is None or begin == start or text[begin:start] in NO_PERSONS:
        return None
    if text[max(0, begin - 3) : begin] == "://":
        return None
    dots = [found.span() for found in dot.finditer(domain[0])]
    ends = [first for first, _ in dots[1:]] + [len(domain[0])]
    for (_, last), stop in zip(reversed(dots), reversed(ends), strict=True):
        top = domain[0][last:stop]
        called = text[end + stop : end + stop + 1] in ("(", "[", "=") and top.lower() not in SURE
        if top.lower() in TOP and (top.islower() or top.isupper() or top.istitle()) and not called:
            return begin, end + stop
    return None


def _local(text: str, end: int) -> int:
    """Where the name before an at sign begins; at `end` where there is none."""
    before = text[max(0, end - LONGEST_LOCAL) : end]
    if group := SEVERAL.search(before):
        return end - len(group[0])
    name = LOCAL_BACKWARDS.match(before[::-1])
    return end - len(name[0].rstrip(".%+-")) if name else end


def ip_addresses(text: str) -> Iterator[Span]:
    """Public IPv4 and IPv6 addresses; ports, prefix lengths and zones stay.

    Taken for none: private, loopback, documentation and multicast addresses, which lead to nobody; four numbers of
    which three are below 10 (`1.2.3.14`), or after a word such as "version" or "section", which count something.
    """
    for match in IPV4_TAIL.finditer(text):
        head = IPV4_HEAD.search(text, max(0, match.start() - 3), match.start())
        if head and _public(head[0] + match[0]) and not _counted(text, head.start(), head[0] + match[0]):
            yield head.start(), match.end()
    reached = 0
    for match in IPV6_PART.finditer(text):
        start = match.start()
        if start >= reached and (head := IPV6_HEAD.search(text, max(0, start - 4), start)):
            tail = IPV6_TAIL.match(text, start)
            if tail and _public(head[0] + tail[0]):
                reached = tail.end()
                yield head.start(), reached


def _public(number: str) -> bool:
    try:
        address = ipaddress.ip_address(number)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _counted(text: str, start: int, number: str) -> bool:
    small = sum(len(part) == 1 for part in number.split(".")) >= 3
    return small or bool(COUNTED.search(text, max(0, start - COUNTED_BEFORE), start))
