"""Phone and payment card numbers in a text: what people are called by and charged by.

Both are runs of digits with blanks, dots, dashes, slashes and brackets between them. One pass finds the runs; what
stands in a run is then held against the shapes in which such numbers are written.
"""

import re
from collections.abc import Iterable, Iterator

Span = tuple[int, int]

AROUND = 5  # characters beside a run that tell what it is
LONGEST_RUN = 80  # characters; longer ones are rows of a table
SAID_BEFORE = 32  # characters before a run in which a word may say that it is a phone number

# Blanks and dashes of typesetters, to plain ones.
PLAIN = {"\u00a0": " ", "\u202f": " ", "\u2010": "-", "\u2011": "-"}
# In bytes, with 0 for every digit: the engine has a fast search for what begins with one letter.
ZEROS = bytes(ord("0") if chr(code).isdecimal() else code for code in range(128)) + bytes(range(128, 256))
RUN = re.compile(rb"0(?: ?(?:[-()./]{1,2} ?[()]?)?0){6,}")

# A letter, digit or underscore, but of Chinese and Japanese, which stand beside numbers without a blank.
SIGN = r"[^\W\u3040-\u30ff\u3400-\u9fff]"
BEFORE = rf"(?<!{SIGN})(?<![$€£¥#%+=*^~\\/])(?<![\w)\]][-.])"  # part of no word, sum, path or longer number
AFTER = rf"(?:(?=x\d)|(?!{SIGN}|[%°€]|[-.]\w|[,:]\d))"
# A number that has another one beside it, with a blank between, is a column of a table.
ALONE = r"(?<!\d )(?<!\d  )(?<!\d[-–,;|/] )", r"(?! {0,2}[-–+*/=|,;]? ?\d)"

# Between groups of digits; never nothing, as trying all ways to cut a long number would take for ever.
BETWEEN = r"(?: - | ?\(0\) ?| ?\(|\)[-. /]?\(?|[-. /]\(?| / )"
GROUPS = rf"(?:{BETWEEN}\d{{1,12}}+){{0,6}}"

# +49 30 1234567, +1 (415) 555-2671, (+44) 20 7946 0958, +49 (0)30/1234567; 0049 30 1234567
ABROAD = re.compile(
    rf"(?<!{SIGN})(?<![)\]+=$€£^])(?:\(?\+(?: (?=\d{{1,3}}[ (-]\d|1 ))?|(?<![-.,/:])(?<!\d )00(?=[1-9]\d{{0,2}}[ -/]))"
    rf"(?P<number>[1-9]\d{{0,14}}+{GROUPS}(?<=\d\d)){AFTER}"
)
ABROAD_DIGITS = 9, 15  # with the country's code; the longest is ITU-T E.164's, shorter ones are mostly sums

CLEAR = (
    r"(?:1[-. ]?)?\([2-9]\d\d\)[-. ]?[2-9]\d\d[-. ]\d{4}",  # (415) 555-2671: North America
    r"(?:1[-.])?[2-9]\d\d(?P<a>[-.])[2-9]\d\d(?P=a)\d{4}",  # 415-555-2671, 1.800.555.0199
    r"[2-9]\d\d/[2-9]\d\d-\d{4}",
    r"\(0[1-9]\d{0,4}\)[ /-]?\d{2,8}(?:[ -]\d{2,6}){0,4}",  # (030) 1234567, (02) 9876 5432: with a trunk 0
    r"\([1-9]\d\) ?9?\d{4}-\d{4}",  # (11) 91234-5678: Brazil
    r"8 ?\(\d{3}\) ?\d{3}-\d\d-?\d\d",  # 8 (495) 123-45-67: Russia
    r"0[1-9]\d{1,4} ?/ ?\d{2,8}(?:[ -]\d{2,6}){0,3}",  # 030 / 123 45 67: Germany
    r"0[1-9]\d{0,3}-\d{6,8}",  # 0171-1234567
    r"0[1-9]\d{0,2}-\d{3,4}-\d{4}",  # 03-1234-5678: Japan, Korea
    r"0[1-9]\d{0,3}-\d{2,4}(?: \d{2,4}){1,3}",  # 08-123 456 78: Sweden
    r"04\d\d(?P<c>[-.])\d{3}(?P=c)\d{3}",  # 0412-345-678: Australia
    r"0[1-9](?P<b>[.-])\d\d(?:(?P=b)\d\d){3}",  # 01.42.68.53.00: France
    r"1[3-9]\d-\d{4}-\d{4}",  # 138-1234-5678: China
)
LONELY = (  # are phone numbers where no other number is beside them
    r"(?:1 )?[2-9]\d\d [2-9]\d\d[ -]\d{4}",  # 415 555 2671
    r"0[1-9]\d{0,3}(?: \d{2,4}){2,4}",  # 020 7946 0958, 044 123 45 67, 01 42 68 53 00
    r"0[1-9]\d{1,3} \d{6,8}",  # 07700 900123, 0171 1234567
    r"8 [3489]\d\d \d{3} \d\d \d\d",  # 8 495 123 45 67
    r"[1-9]\d 9\d{4}-\d{4}",  # 11 91234-5678
    r"1[3-9]\d \d{4} \d{4}",  # 138 1234 5678
)
NATIONAL = re.compile(f"{BEFORE}(?:{'|'.join(CLEAR)}|{ALONE[0]}(?:{'|'.join(LONELY)}){ALONE[1]}){AFTER}")
NATIONAL_DIGITS = 9, 12  # fewer are dates and house numbers as often; by eye

# What comes before a number that may then be written in any way: "Tel.: 5551234", "my mobile is 98765 43210".
CALLED = re.compile(
    r"(?:\b(?:tel|t[eé]l[eéèêó]f\w{0,5}|(?:tele|cell)?phone|fax|mobile|mob|cell|handy|fon|tlf|tfno|whatsapp|hotline"
    r"|helpline|sms|call(?: me| us)?|dial|ring(?: me| us)?|text me|тел\w{0,5})\b|[☎✆📞📱]|電話|电话|手机|전화)"
    r"(?:[.:#=)(\s'\"-]|\b(?:no|nr|number|num|is|at|on|home|work|office)\b){1,8}\+?\Z",
    re.IGNORECASE,
)
HAN, CHINESE = re.compile("[\u4e00-\u9fff]"), re.compile(r"1[3-9]\d{9}")  # 联系人13812345678
SAID = re.compile(rf"\d{{1,15}}+{GROUPS}{AFTER}")
LINKS = " .:#=)('\"-+\t\n"
SAID_DIGITS = 7, 15
DATE = re.compile(
    r"[0-3]?\d([-. /])[0-3]?\d\1(?:19|20)\d\d(?!\d)|(?:19|20)\d\d([-./ ])[01]?\d\2[0-3]?\d(?!\d)"
    r"|(?:19|20)\d\d ?[-/] ?(?:19|20)\d\d(?!\d)|(?:19|20)\d\d[01]\d[0-3]\d(?!\d)"
)
FRACTION = re.compile(r"\d+\.\d+")

CARD = re.compile(
    rf"(?<!{SIGN})(?<![.+-])"
    r"(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5}|\d{14,16})"
    rf"(?!{SIGN}|%|[-.,]\d| \d)"
)
FEWEST_CARD_DIGITS = 14
# First digits and lengths (ISO/IEC 7812) of Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay.
ISSUED = re.compile(
    r"4(?:\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[689]\d)\d{11}|62\d{14}(?:\d{3})?"
)


def runs_of_digits(text: str) -> list[Span]:
    """Where at least seven digits stand with little between them; phone and card numbers are in such runs."""
    return [
        match.span() for match in RUN.finditer(_plain(text).encode("latin-1", "replace").translate(ZEROS))
    ]


def _plain(text: str) -> str:
    """The text, as long, with plain blanks and dashes."""
    if not text.isascii():
        for sign, plain in PLAIN.items():
            text = text.replace(sign, plain)
    return text


def phone_numbers(text: str, runs: Iterable[Span]) -> Iterator[Span]:
    """Phone numbers in `runs`: international, national in a usual shape, in any shape after "Tel.:" and the like.

    Taken for none: a number with others beside it, as in tables, a date, a range of years, a decimal fraction, a part
    of a word, and seven digits that nothing calls a phone number.
    """
    for low, high in runs:
        shape = _has_shape(text, low, high)
        before = text[max(0, low - SAID_BEFORE) : low]
        said = _is_said(before) or (HAN.search(before) and CHINESE.fullmatch(text, low, high))
        if not shape and not said:
            continue
        begin = max(0, low - AROUND)
        window = _plain(text[begin : high + AROUND])
        found = _shaped(window) if shape else []
        if said and not found:
            found = _said(window, low - begin)
        yield from ((begin + start, begin + end) for start, end in found)


def _has_shape(text: str, low: int, high: int) -> bool:
    """Whether a run may be more than a number or a fraction, and less than a row of a table."""
    if high - low > LONGEST_RUN:
        return False
    return not text[low:high].replace(".", "", 1).isdigit() or "+" in text[max(0, low - 2) : low]


def _shaped(window: str) -> list[Span]:
    """Numbers whose shape alone says that they are phone numbers."""
    abroad = [match.span() for match in ABROAD.finditer(window) if _abroad(match["number"])]
    national = [
        match.span()
        for match in NATIONAL.finditer(window)
        if _within(match[0], NATIONAL_DIGITS) and not _counted(match[0])
    ]
    return abroad or national


def _is_said(before: str) -> bool:
    """Whether the words before a number say that one calls it."""
    word = before.rstrip(LINKS)[-1:]  # a quick look, as most numbers come after other numbers
    return bool(word) and not word.isdigit() and bool(CALLED.search(before))


def _said(window: str, start: int) -> list[Span]:
    """The number at `start`, of which it is said that it is called."""
    match = SAID.match(window, start)
    if match is None or DATE.match(match[0]) or not _within(match[0], SAID_DIGITS):
        return []
    while start and window[start - 1] in "+(":
        start -= 1
    return [(start, match.end())]


def _within(number: str, limits: tuple[int, int]) -> bool:
    return limits[0] <= sum(map(str.isdigit, number)) <= limits[1]


def _abroad(number: str) -> bool:
    """Whether a number after a plus sign can be dialled, and is no sum."""
    if FRACTION.fullmatch(number) or number.endswith("000") or {".", "-"} <= set(number):
        return False
    if number[0] == "1":  # North America, of which more is known
        return bool(re.fullmatch("1[2-9][0-9]{2}[2-9][0-9]{6}", re.sub("[^0-9]", "", number)))
    return _within(number, ABROAD_DIGITS)


def _counted(number: str) -> bool:
    """Whether it is a date, or pairs of digits in ascending order: lists and lotteries."""
    pairs = re.split("[-. ]", number)
    return bool(DATE.match(number)) or (all(len(pair) == 2 for pair in pairs) and pairs == sorted(pairs))


def card_numbers(text: str, runs: Iterable[Span]) -> Iterator[Span]:
    """Numbers of payment cards in `runs`: of a network's range and length, and with the right check digit."""
    for low, high in runs:
        if high - low >= FEWEST_CARD_DIGITS:
            for match in CARD.finditer(text, low, high + AROUND):
                digits = re.sub("[- ]", "", match[0])
                if ISSUED.fullmatch(digits) and _luhn(digits):
                    yield match.span()


def _luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it (ISO/IEC 7812-1, annex B)."""
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0
