"""Lines that web pages carry beside their text, and a step that drops them."""

import re
from typing import Literal

from pydantic import Field

from tasks.text import Outcome, Text
from training.config import Choice

# The rules are those of RefinedWeb's line-wise corrections (Penedo et al. 2023, arXiv 2306.01116, appendix G.2), which
# names a few examples of the words; the words are by eye, and English.
SHORT_WORDS = 10  # only lines of at most so many are taken for menus and buttons
NOTICE_CHARACTERS = 400  # and of so many for notices; by eye

NUMERIC = re.compile(r"[\s.,:;/%+()#|€$£-]*+\d[\d\s.,:;/%+()#|€$£-]*+")
COUNTED = (
    "likes?|shares?|comments?|repl(?:y|ies)|views?|followers?|following|friends|retweets?|tweets?|votes?|upvotes?"
    "|points?|posts?|reviews?|ratings?|downloads?|photos?|reactions?|subscribers?|favou?rites?|answers?|items?"
)
COUNTER = re.compile(
    rf"\W*(?:(?:\d[\d.,]*\s?[km]?\+?|no)\s+(?:{COUNTED})|(?:{COUNTED})\s*[:(]\s*\d[\d.,]*\s?[km]?\)?)\W*"
    r"|\W*(?:posted\s+)?\d+\s+(?:second|minute|hour|day|week|month|year)s?\s+ago\W*|\W*\d+\s+min(?:ute)?s?\s+read\W*"
)
# Menus and buttons, by what a line has at its start, at its end, anywhere.
START = re.compile(
    r"""\W*(?:(?:sign[ -]?(?:in|up|out)|log[ -]?(?:in|out)|register|subscribe|unsubscribe|my\ account
      |create\ an\ account|share\ (?:this|on|via|to)|tweet\ this|pin\ it|follow\ (?:us|me)|like\ us\ on|skip\ to
      |jump\ to|go\ back|(?:add|leave|post)\ a\ (?:comment|reply)|back\ to\ top|scroll\ down|click\ here|tap\ here
      |print\ this|download\ (?:now|the\ app)|powered\ by|advertisement|sponsored|loading|filed\ under
      |tagged\ (?:with|as)|related\ (?:posts|articles|stories)|you\ (?:may|might)\ also\ (?:like|enjoy)
      |(?:next|previous)\ (?:page|post|article))\b|copyright\ (?:\d|©|\(c)|home\ [>|»/]|©)""",
    re.VERBOSE,
)
END = re.compile(r"\b(?:(?:read|learn|see|show|load|view|find out) (?:more|all|less)|continue reading)\W*\Z")
END_SIGNS = " .…>»→:!)]"
ENDINGS = ("more", "all", "less", "reading")
ANYWHERE = re.compile(
    r"\b(?:items? in (?:your )?(?:cart|basket|bag)|add(?:ed)? to (?:cart|basket|wish ?list)|(?:view|shopping) cart"
    r"|privacy policy|terms (?:of (?:use|service)|(?:and|&) conditions)|forgot(?:ten)? (?:your )?password"
    r"|cookie (?:policy|settings|preferences)|remember me|enable javascript|e-?mail this|permalink|continue reading)\b"
)
NOTICE = re.compile(
    r"cookies.*\b(?:accept|agree|consent|experience|preferences|policy|analytics)\b"
    r"|\b(?:use|uses|using|accept|manage) (?:of )?(?:all )?cookies\b|all rights reserved|javascript (?:is|must be) "
)
# A text without any of these has no line of the two before; a plain search for them is much faster.
HINTS = (
    *("cookie", "javascript", "reserved", "cart", "basket", "bag", "wish", "policy", "terms", "password"),
    *("remember", "mail", "permalink", "continue"),
)
CAPITALS, SMALLS = (bytes(range(ord(first), ord(first) + 26)) for first in "Aa")


class BoilerplateLines(Choice):
    """Drops lines of menus, counters, share buttons and notices from web pages in English.

    Not for code or tables, whose lines of numbers and constants it takes for such.
    """

    kind: Literal["boilerplate_lines"] = "boilerplate_lines"
    capitals: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A line with a larger share of capital letters goes, also a heading. 1: none does.",
    )
    single_words: bool = Field(
        default=False,
        description="Also drops lines of one word, as RefinedWeb does: headings, and most lines of lists and poems.",
    )
    most: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="A text goes whole if a larger share of its words is in such lines: it is a menu, not a page. 1:"
        " only if all are. RefinedWeb has 0.05.",
    )

    def apply(self, text: Text) -> Outcome:
        """The text without those lines, or that they are too many."""
        lines, lowered = text.lines, text.lower()
        hinted = any(hint in lowered for hint in HINTS)
        flagged = [self._is_boilerplate(line, hinted) for line in lines]
        if not any(flagged):
            return Outcome(text)
        words = len(text.split())
        dropped = sum(len(line.split()) for line, drop in zip(lines, flagged, strict=True) if drop)
        if dropped > self.most * words or dropped == words:
            return Outcome(
                text,
                reason=f"over {self.most:.0%} of words in boilerplate lines"
                if self.most < 1
                else "all lines are boilerplate",
            )
        kept = "\n".join([line for line, drop in zip(lines, flagged, strict=True) if not drop])
        return Outcome(Text(kept), ("boilerplate lines dropped",))

    def _is_boilerplate(self, line: str, hinted: bool) -> bool:
        """Whether a line is; `hinted`: its text has one of HINTS."""
        if not line or line.isspace():
            return False
        if _share_of_capitals(line) > self.capitals or NUMERIC.fullmatch(line):
            return True
        if len(line) > NOTICE_CHARACTERS:
            return False
        lowered = line.lower()
        if hinted and NOTICE.search(lowered):
            return True
        if line.count(" ") >= SHORT_WORDS:
            return False
        if START.match(lowered) or COUNTER.fullmatch(lowered) or (hinted and ANYWHERE.search(lowered)):
            return True
        if lowered.rstrip(END_SIGNS).endswith(ENDINGS) and END.search(lowered):
            return True
        return self.single_words and len(line.split()) == 1


def _share_of_capitals(line: str) -> float:
    """Of letters; letters that have no capitals count as small."""
    if line.isascii():
        data = line.encode()
        capitals = len(data) - len(data.translate(None, CAPITALS))
        letters = capitals + len(data) - len(data.translate(None, SMALLS))
    else:
        capitals, letters = sum(map(str.isupper, line)), sum(map(str.isalpha, line))
    return capitals / letters if letters else 0.0
