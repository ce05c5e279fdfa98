"""Steps that change a text: repaired Unicode, and one way to write blanks."""

import re
import unicodedata
from typing import Literal

import ftfy
from ftfy.badness import is_bad
from pydantic import Field

from tasks.text import Outcome, Text
from training.config import Choice

# Repairs the encoding alone: ligatures, wide letters, curly quotes and HTML entities are content.
REPAIR = ftfy.TextFixerConfig(
    uncurl_quotes=False,
    unescape_html=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    explain=False,
)
# ftfy tells wrong decoding by a few characters beside each other: it is shown only what is around those beyond ASCII.
BESIDE = 6
FOREIGN = re.compile(rb"\?(?:[^?]{0,%d}\?)*" % BESIDE)  # with a question mark for each of those
# Signs of typesetters; with nothing but ASCII around, ftfy takes none for wrong decoding, which a test shows.
TYPESET = frozenset("‘’“”–—…•·«»")
# What it removes or replaces wherever it stands: control characters, and line ends of other systems.
CONTROLS = bytes([*range(9), 11, *range(14, 32), 127])
ODD = re.compile("[\x80-\x9f\u2028\u2029\u206a-\u206f\ud800-\udfff\ufeff\ufff9-\ufffc]")


class RepairUnicode(Choice):
    """Mends text that was decoded wrongly (ftfy), composes accents (NFC), and makes all line ends `\\n`.

    As ftfy on the whole text does, except that lines of plain ASCII stay as they are: also their control characters
    and terminal colours, which ftfy removes wherever another line has an accent.
    """

    kind: Literal["repair_unicode"] = "repair_unicode"

    def apply(self, text: Text) -> Outcome:
        """The mended text; changes are "line ends" and "Unicode repaired"."""
        lines = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
        changes = ["line ends"] if lines != text else []
        mended = lines if lines.isascii() else _mended(lines)
        if mended != lines:
            changes.append("Unicode repaired")
        return Outcome(Text(mended) if changes else text, tuple(changes))


def _mended(text: str) -> str:
    if not _suspicious(text):
        composed = unicodedata.normalize("NFC", text)
        if composed == text or not _suspicious(composed):
            return composed
    lines = text.split("\n")
    ended = [line + "\n" for line in lines[:-1]] + lines[-1:]
    return "".join(line if line.isascii() else ftfy.fix_text(line, REPAIR) for line in ended)


def _suspicious(text: str) -> bool:
    """Whether ftfy may have something to do other than composing accents."""
    plain = text.replace("?", "!").encode("ascii", "replace")
    if len(plain.translate(None, CONTROLS)) < len(plain):
        return True
    for match in FOREIGN.finditer(plain):
        start, end = match.span()
        if text[start:end] not in TYPESET:
            around = text[max(0, start - BESIDE) : end + BESIDE]
            if is_bad(around) or ODD.search(around):
                return True
    return False


# Blanks of other widths; the ideographic one is a letter's width and stays.
BLANKS = "\u00a0\u1680\u2000-\u200a\u202f\u205f"
# Zero-width ones and soft hyphens; joiners stay, with which Persian, Indian scripts and emoji are spelt, and so does
# the zero-width blank between words of Thai, Lao, Burmese and Khmer.
INVISIBLE = re.compile("(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b|[\u00ad\u180e\u2060\ufeff]")
ODD_BLANKS = re.compile(f"[{BLANKS}]")
INDENTATION = re.compile(r"^ *\t[ \t]*", re.MULTILINE)
SINGLE, DOUBLE = re.compile("[‘’‚‛]"), re.compile("[“”„‟]")


class Normalise(Choice):
    """One way to write what looks the same: blanks, blank lines, tabs, quotes. Indentation stays."""

    kind: Literal["normalise"] = "normalise"
    trailing_blanks: bool = Field(
        default=True, description="Removes blanks at ends of lines. Off, the model learns where they are."
    )
    blank_lines: int | None = Field(
        default=2,
        ge=0,
        le=10,
        description="Keeps so many of blank lines in a row. 0: paragraphs can no longer be told; Python's style has 2.",
    )
    tab_blanks: int | None = Field(
        default=None,
        ge=1,
        le=8,
        description="Writes so many blanks for a tab in indentation. Makefiles then break; tabs in tables stay.",
    )
    invisible: bool = Field(
        default=True,
        description="Makes blanks of other kinds plain ones, removes zero-width ones and soft hyphens. Off, the same"
        " word comes in several spellings that nobody sees.",
    )
    quotes: bool = Field(
        default=False,
        description="Makes curly quotes straight. The model then never writes others, and apostrophes within quotes"
        " end them.",
    )

    def apply(self, text: Text) -> Outcome:
        """The text with the changes that the fields ask for."""
        changes, result = list[str](), str(text)
        for change, changed in (
            ("invisible characters", _visible if self.invisible and not text.isascii() else None),
            ("curly quotes", _straight if self.quotes and not text.isascii() else None),
            ("tabs", self._without_tabs if self.tab_blanks and "\t" in text else None),
            ("trailing blanks", _stripped if self.trailing_blanks else None),
            ("blank lines", self._closer if self.blank_lines is not None else None),
        ):
            before = result
            result = changed(before) if changed else before
            if result != before:
                changes.append(change)
        return Outcome(Text(result) if changes else text, tuple(changes))

    def _without_tabs(self, text: str) -> str:
        return INDENTATION.sub(lambda match: match[0].expandtabs(self.tab_blanks or 8), text)

    def _closer(self, text: str) -> str:
        most = "\n" * ((self.blank_lines or 0) + 1)
        return re.sub(f"{most}\n+", most, text) if most + "\n" in text else text


def _visible(text: str) -> str:
    return ODD_BLANKS.sub(" ", INVISIBLE.sub("", text))


def _straight(text: str) -> str:
    return SINGLE.sub("'", DOUBLE.sub('"', text))


def _stripped(text: str) -> str:
    if " \n" in text or "\t\n" in text or text[-1:] in (" ", "\t"):
        return "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    return text
