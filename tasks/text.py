"""A document's text on its way through the cleaning, and what a step makes of it.

A step of the cleaning is a `Choice` with `apply(text) -> Outcome`. Steps know one document at a time,
and nothing of those before it: so documents may be cleaned in any order, on any number of machines.

Words are cut as spaCy's English tokenizer cuts them, which the published quality rules count by: marks
at a word's ends and contracted verbs are words of their own, web addresses and abbreviations are whole.
Unlike there, Chinese characters and kana are a word each, since nothing tells where their words end.
"""

import re
import string
import struct
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

# Of a word: its hash, for this process alone; its characters; and what is true of it, of the four below.
WORD = np.dtype([("hash", "=i8"), ("size", "=i4"), ("kind", "=i4")])
LETTERS, SYMBOLS, ENDS_SENTENCE, PUNCTUATION = 1, 2, 4, 8
Numbers = npt.NDArray[np.int64]


class Text(str):
    """A text that remembers what steps have worked out about it; another process starts afresh."""

    def __reduce__(self) -> tuple[type["Text"], tuple[str]]:
        return Text, (str(self),)

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, split at `\\n` alone."""
        return self.split("\n")

    @cached_property
    def runs(self) -> list[str]:
        """What stands between blanks of any kind; "it's 5km," is two runs."""
        return self.split()

    @cached_property
    def words(self) -> npt.NDArray[Any]:
        """Its words and marks in order, as WORD; "it's 5km," has five: it 's 5 km and a comma."""
        return np.frombuffer(b"".join(map(SPELLED.__getitem__, self.runs)), WORD)

    @property
    def sentences(self) -> int:
        """How many it has: another begins with the first word after marks that end one, quotes not counted."""
        kinds = self.words["kind"]
        kinds = kinds[kinds & (ENDS_SENTENCE | PUNCTUATION) != PUNCTUATION]
        ends = kinds & ENDS_SENTENCE != 0
        return bool(len(self.words)) + int(np.count_nonzero(ends[:-1] & ~ends[1:]))


class Outcome(NamedTuple):
    """The text after a step and what was changed in it, or why the document goes."""

    text: Text
    changes: tuple[str, ...] = ()
    reason: str | None = None


class Step(Protocol):
    """What all steps of the cleaning have."""

    @property
    def kind(self) -> str:
        """The step's name."""
        ...

    def apply(self, text: Text) -> Outcome:
        """What becomes of the text; one that is not changed is the same object."""
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """A step that hangs on files, too."""

    def check(self) -> None:
        """Raises InputError where they are not as they must be."""
        ...

    def fingerprint(self) -> str:
        """Names their content."""
        ...


class Filter:
    """A step that lets a text pass as it is, or has a reason not to."""

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        raise NotImplementedError

    def apply(self, text: Text) -> Outcome:
        """The text as it is, or the reason."""
        return Outcome(text, reason=self.reason(text))


REMEMBERED = 2**17  # runs, and words: about 40 MB; English repeats most of its runs within so many
REMEMBERED_LENGTH = 40  # characters; longer runs hardly ever come twice
ENDINGS = 8  # taken off a run one after another, so that a run of any length takes a time in proportion

MARKS = ",:;!?¿؟¡()[]{}<>_#*&…。？！，、；：～·।،۔؛٪'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"
AFTER = MARKS + "—–"
ASCII_AFTER = "".join(filter(str.isascii, AFTER)) + "."
ASCII_BEFORE = "".join(filter(str.isascii, MARKS)) + "%=$"
NO_START, NO_STOP = ("", ".", "+"), string.ascii_uppercase + "./=|~^@\\$"  # of a run that is cut in one go
HAN = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
ICONS = "¦©®°\u2100-\u214f\u2190-\u2bff\U0001f000-\U0001faff"
UNITS = (
    "[kcdmµn]?m[²³]?|ha|yd|in|ft|[kmµ]?g|lb|oz|t|m/s|km/h|kmh|mph|h?Pa|mbar|[mkgtMKGT][bB]|[TGMK]|%|[$£€¥]"
)

BEFORE = re.compile(rf"(?:\.\.+|\+(?!\d)|[§%=—–$£€¥฿₠-₿{re.escape(MARKS)}])+")
PIECE = re.compile(r"''|\(:|\):|\[:|:\]|\.\.+|.", re.DOTALL)
ENDING = re.compile(rf"(?:['’][sS]|(?<=\d)(?:\+|{UNITS})|(?<=[^A-Z./=|~^@\\$])\.|(?<=[A-Z]{{2}})\.)\Z")
WITHIN = re.compile(
    rf"(?=[-.+*^,–—~:<>=/…{ICONS}{HAN}])(\.\.+|[…{ICONS}{HAN}]|(?<=\d)[-+*^](?=[\d-])"
    r"|(?<=[^\W\d_A-Z'\"])\.(?=[A-Z'\"])|(?<=[^\W\d_]),(?=[^\W\d_])"
    r"|(?<=[^\W_])(?:---?|——|[-–—~:<>=/])(?=[^\W\d_]))"
)
ADDRESS = re.compile(
    r"(?:[\w+.-]{2,}://)?(?:[^\s@]+@)?(?:[^\W_](?:[\w-]*[^\W_])?\.)+[a-z]{2,63}(?::\d{2,5})?(?:[/?#]\S*)?\Z"
)

# Unicode's Sentence_Terminal without its latest members, and three Khmer signs: those of datatrove
SENTENCE_ENDS = frozenset(
    "!.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈"
    "꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡𐩖𐩗𐽕𐽖𐽗𐽘𐽙𐾆𐾇𐾈𐾉𑁇𑁈𑂾𑂿𑃀𑃁𑅁𑅂𑅃𑇅𑇆𑇍𑇞𑇟𑈸𑈹𑈻𑈼𑊩𑑋𑑌𑗂𑗃𑗉𑗊𑗋𑗌𑗍𑗎𑗏𑗐𑗑𑗒𑗓𑗔𑗕𑗖𑗗𑙁𑙂𑜼𑜽𑜾𑥄𑥆𑩂𑩃𑪛𑪜𑱁𑱂𑻷𑻸\U00011f43\U00011f44𖩮𖩯𖫵𖬷𖬸𖭄𖺘𛲟𝪈"
)
# ASCII's, those of CCNet (Wenzek et al. 2020), and control characters
SYMBOL_MARKS = SENTENCE_ENDS.union(
    string.punctuation,
    "«´»–—’“”„…∶━►、〈〉《》「」【】％（），１：；～",
    map(chr, (*range(32), *range(127, 160))),
)

ABBREVIATIONS = (
    "and/or w/o o'clock O'clock ma'am C++ '' 'em 'cause 'd 're 's a.m. p.m. e.g. E.g. i.e. I.e. vs. v.s. co. Co."
    " Adm. Bros. Corp. Dr. Gen. Gov. Inc. Jr. Ltd. Messrs. Mr. Mrs. Ms. Mt. Ph.D. Prof. Rep. Rev. Sen. St."
    " Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. Ala. Ariz. Ark. Calif. Colo. Conn. Del. Fla."
    " Ga. Ia. Id. Ill. Ind. Kan. Ky. La. Mass. Md. Mich. Minn. Miss. Mo. Mont. Neb. Nev. Okla. Ore. Pa. Tenn."
    " Va. Wash. Wis. a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z."
)
CONTRACTIONS = (  # what may stand before, and what after, with an apostrophe between or without
    ("i", "m ll d ve"),
    ("you we they", "ll d ve re"),
    ("he she it", "ll d s"),
    ("who what when where why how there", "s ll d ve re"),
    ("that this", "s ll d"),
    ("these those", "ll d ve re"),
    ("could might must should would", "ve"),
)
NEGATED = (
    "ca could do does did had may might must need ought sha should wo would ai are is was were have has dare"
)
NO_CONTRACTIONS = frozenset(("ill", "its", "hell", "shell", "shed", "were", "well"))
JOINED = ("can not", "gon na", "got ta", "let 's", "let ’s", "y' all", "c'm on")


def _known() -> dict[str, tuple[str, ...]]:
    """The runs that the rules for marks would cut wrongly, with their words."""
    known: dict[str, tuple[str, ...]] = {run: (run,) for run in ABBREVIATIONS.split()}
    cuts = [tuple(joined.split()) for joined in JOINED]
    for apostrophe in ("'", "’", ""):
        for starts, ends in CONTRACTIONS:
            cuts += [(start, apostrophe + end) for start in starts.split() for end in ends.split()]
        cuts += [(verb, f"n{apostrophe}t") for verb in NEGATED.split()]
        before = (apostrophe + "ll", apostrophe + "d")
        cuts += [(*words, apostrophe + "ve") for words in cuts if words[-1] in before]
    for first, *others in cuts:
        if "".join((first, *others)) not in NO_CONTRACTIONS:
            for start in (first, first.capitalize()):
                known["".join((start, *others))] = (start, *others)
    return known


KNOWN = _known()


def cut(run: str) -> tuple[str, ...]:
    """The words of a run, in a time in proportion to its length."""
    if run in KNOWN:
        return KNOWN[run]
    core = run.lstrip(ASCII_BEFORE)
    inner = core.rstrip(ASCII_AFTER)
    after = core[len(inner) :]
    if not inner.isascii() or inner in KNOWN or inner[:1] in NO_START or ".." in after:
        return _cut_stepwise(run)
    if after[:1] == "." and (inner[-1] in NO_STOP or inner + "." in KNOWN):
        return _cut_stepwise(run)
    if not inner[-5:].isalpha() and ENDING.search(inner, max(0, len(inner) - 4)):
        return _cut_stepwise(run)
    words = (inner,) if inner.isalpha() else _cut_within(inner)
    return (*_marks(run[: len(run) - len(core)]), *words, *_marks(after)) if len(inner) < len(run) else words


def _cut_stepwise(run: str) -> tuple[str, ...]:
    """The same, of any run: one mark or ending after the other is taken off, until what is left is known."""
    before = BEFORE.match(run)
    core = run[before.end() :] if before else run
    endings: list[str] = []
    for _ in range(ENDINGS):
        if core in KNOWN:
            break
        shorter = core.rstrip("." if core.endswith("..") else AFTER)
        if len(shorter) < len(core):
            endings.extend(reversed(_marks(core[len(shorter) :])))
        elif found := ENDING.search(core, max(0, len(core) - 4)):
            shorter = core[: found.start()]
            endings.append(found[0])
        else:
            break
        core = shorter
    within = _cut_within(core) if core else ()
    return (*_marks(before[0] if before else ""), *within, *reversed(endings))


def _marks(marks: str) -> Sequence[str]:
    """Each by itself, but for ellipses and faces."""
    return marks if len(marks) < 2 else PIECE.findall(marks)


def _cut_within(core: str) -> tuple[str, ...]:
    """The words of a run without marks at its ends."""
    if core in KNOWN:
        return KNOWN[core]
    parts = WITHIN.split(core)
    return (core,) if len(parts) == 1 or ADDRESS.match(core) else tuple(filter(None, parts))


class _Spelled(dict[str, bytes]):
    """The words of the runs met so far, as WORD; all are forgotten when they become too many."""

    def __missing__(self, run: str) -> bytes:
        if run.isalpha() and run.isascii() and run not in KNOWN:
            words = PACK(hash(run), len(run), LETTERS)
        else:
            words = b"".join(map(KINDS.__getitem__, cut(run)))
        if len(run) <= REMEMBERED_LENGTH:
            if len(self) >= REMEMBERED:
                self.clear()
            self[run] = words
        return words


class _Kinds(dict[str, bytes]):
    """The same of single words."""

    def __missing__(self, word: str) -> bytes:
        kind = LETTERS
        if not any(map(str.isalpha, word)):
            kind = SYMBOLS * SYMBOL_MARKS.issuperset(word) + ENDS_SENTENCE * (word in SENTENCE_ENDS)
            kind += PUNCTUATION * all(unicodedata.category(mark)[0] == "P" for mark in word)
        found = PACK(hash(word), len(word), kind)
        if len(word) <= REMEMBERED_LENGTH:
            if len(self) >= REMEMBERED:
                self.clear()
            self[word] = found
        return found


PACK = struct.Struct("=qii").pack
SPELLED, KINDS = _Spelled(), _Kinds()


def top_phrase(phrases: Numbers, sizes: Numbers, enough: float, at_most: int) -> tuple[int, int]:
    """How often the most frequent phrase is there, and its characters; of several, those of the first.

    `phrases` are hashes in the order of the text, one or more, and `sizes` their characters. None is there more
    than `at_most` times. Where that is known to make less than `enough` characters, they are not counted.
    """
    longest = int(sizes.max())
    if at_most * longest < enough:
        return at_most, 0
    ordered = np.sort(phrases)
    new = np.ones(len(ordered) + 1, bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:-1])
    starts = new.nonzero()[0]
    counts = starts[1:] - starts[:-1]
    most = int(counts.max())
    if most * longest < enough:
        return most, 0
    top = ordered[starts[:-1][counts == most]]
    first = (top[top[:-1].searchsorted(phrases)] == phrases).argmax()
    return most, most * int(sizes[first])


def repeated_phrases(phrases: Numbers, sizes: Numbers, n: int, enough: float) -> tuple[int, int]:
    """Characters of phrases of `n` words that were there before: a bound, and without overlap.

    `phrases` are hashes in the order of the text, one or more, and `sizes` their characters. The search for
    those without overlap goes on behind each one found, and is spared where the bound is at most `enough`.
    """
    ordered = np.sort(phrases)
    repeats = int(np.count_nonzero(ordered[1:] == ordered[:-1]))
    if not repeats or (at_most := repeats * int(sizes.max())) <= enough:
        return repeats and at_most, 0
    order = phrases.argsort()
    ordered = phrases[order]
    same = (ordered[1:] == ordered[:-1]).nonzero()[0]
    at_most = int(sizes[order[same]].sum())
    if at_most <= enough:
        return at_most, 0
    twice = np.zeros(len(phrases), bool)
    twice[order[same]] = twice[order[same + 1]] = True
    places = twice.nonzero()[0]
    seen: set[int] = set()
    characters, after = 0, 0
    for at, size, phrase in zip(
        places.tolist(), sizes[places].tolist(), phrases[places].tolist(), strict=True
    ):
        if at < after:
            continue
        if phrase in seen:
            characters, after = characters + size, at + n
        else:
            seen.add(phrase)
    return at_most, characters
