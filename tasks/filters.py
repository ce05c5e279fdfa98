"""What a document must be to be kept; the defaults suit prose and code alike."""

import re
import zlib
from typing import Literal

from pydantic import Field

from tasks.text import Filter, Text
from training.config import Choice

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd]+")
SYMBOLS = re.compile("[!-/:-@\\[-`{-~\u2500-\u27bf]+")  # of ASCII, box drawing and dingbats
NOT_ALPHANUMERIC = re.compile(r"[\W_]+")
GENERATED = re.compile(
    r"auto(matically)?[- ]?generated|generated (by|from)|do not (edit|modify)", re.IGNORECASE
)
GENERATED_CHARACTERS = 400  # of a file's start, where such a notice stands; by eye
COMPRESSED_BYTES = 1024**2  # of a document's start, enough to see whether it repeats itself


class TooShort(Filter, Choice):
    """Drops documents with hardly any text."""

    kind: Literal["too_short"] = "too_short"
    characters: int = Field(
        default=16,
        ge=1,
        le=100_000,
        description="Fewer are dropped. Above about 40, one-line modules go too.",
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        return f"shorter than {self.characters} characters" if len(text.strip()) < self.characters else None


class Unprintable(Filter, Choice):
    """Drops what was binary, or was decoded wrongly before it came here."""

    kind: Literal["unprintable"] = "unprintable"
    share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="With more control and replacement characters it is dropped; 0: for a single one.",
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        found = sum(map(len, UNPRINTABLE.findall(text)))
        return f"over {self.share:.0%} unprintable" if found > self.share * len(text) else None


class MostlySymbols(Filter, Choice):
    """Drops ASCII art, number-free tables and the like."""

    kind: Literal["mostly_symbols"] = "mostly_symbols"
    share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="With more symbols it is dropped. Prose has about 0.05, Python 0.1 to 0.3: below 0.3,"
        " code goes.",
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        found = sum(map(len, SYMBOLS.findall(text)))
        return f"over {self.share:.0%} symbols" if found > self.share * len(text) else None


class UnbrokenRun(Filter, Choice):
    """Drops embedded data: base64, hexadecimal dumps, minified code."""

    kind: Literal["unbroken_run"] = "unbroken_run"
    characters: int = Field(
        default=1000,
        ge=100,
        le=1_000_000,
        description="With a longer run of ASCII without a blank it is dropped. Below 200, long web addresses go.",
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        run = re.search(f"[!-~]{{{self.characters + 1}}}", text)
        return f"a run of over {self.characters} characters without a blank" if run else None


class Repetitive(Filter, Choice):
    """Drops documents that say the same over and over, in any language."""

    kind: Literal["repetitive"] = "repetitive"
    ratio: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="If it compresses to a smaller share of its bytes, it is dropped. Prose compresses to"
        " about 0.4, tables in code to 0.2: above that, they go.",
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        data = text[:COMPRESSED_BYTES].encode()
        repeats = len(zlib.compress(data, level=1)) < self.ratio * len(data)
        return f"repetitive: compresses to under {self.ratio:.0%}" if repeats else None


class CodeQuality(Filter, Choice):
    """Drops what is data or made by a machine, though it is called code (Chen et al. 2021, section 3.1)."""

    kind: Literal["code_quality"] = "code_quality"
    mean_line: int = Field(
        default=100,
        ge=20,
        le=10_000,
        description="With longer lines on average it is dropped: data, not code.",
    )
    longest_line: int = Field(
        default=1000, ge=80, le=1_000_000, description="With a longer line it is dropped: minified, or data."
    )
    alphanumeric: float = Field(
        default=0.25, ge=0, lt=1, description="With a smaller share of letters and digits it is dropped."
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        if len(text) > self.mean_line * len(text.lines):
            return f"lines of over {self.mean_line} characters on average"
        if max(map(len, text.lines)) > self.longest_line:
            return f"a line of over {self.longest_line} characters"
        if len(NOT_ALPHANUMERIC.sub("", text)) < self.alphanumeric * len(text):
            return f"under {self.alphanumeric:.0%} letters and digits"
        if GENERATED.search(text, 0, GENERATED_CHARACTERS):
            return "says that it is generated"
        return None
