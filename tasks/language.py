"""Which language a text is in, told offline, and a filter by it."""

import re
from functools import cache, lru_cache
from threading import Lock
from typing import Annotated, Literal

from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pydantic import AfterValidator, Field

from tasks.text import Filter, Text
from training.config import Choice

UNDETERMINED = "und"  # ISO 639-2
SAMPLE_CHARACTERS = (
    500  # from the start and again from the middle, as pages begin with menus in other languages
)
# Of texts of n words in 25 languages (Django's catalogues), py3langid tells 87 % right at 3, 96 % at 5, 99.3 % at 10,
# 99.8 % at 20; of Chinese and Japanese 98 % at 20 characters and all at 40.
FEWEST_WORDS = 20
WORD = re.compile(r"[^\W\d_]+")
# Letters of scripts that put no blanks between words; about two make a word.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
# What code has at every turn and prose, marked up or not, hardly: calls, attributes, underscores, operators.
CODE = re.compile(
    r"[^\W\d]\(|(?<![/.\w-])[^\W\d]\w*\.[^\W\d]|\w_\w|[={}<>\\&^~@$%+]+|[;{]$|\"\w+\":|^\s*//|\)\)|\[\w+\](?!\()",
    re.MULTILINE,
)
# Signs a word. Of prose in 27 languages none has more; of Python's functions about 90 % do, of JavaScript and C 99 %,
# of modules that begin with long docstrings 77 %, of Markdown manuals full of code 49 %.
CODE_SIGNS = 0.15
# What WikiText and its like write; no code.
TOKENISED = re.compile(r"<unk>|@[-.,]@|^[ =]+|[ =]+$", re.MULTILINE)


@lru_cache(maxsize=1)  # the filter asks, and then whoever writes the document down
def language_of(text: str) -> tuple[str, float]:
    """The language's ISO 639-1 code and its probability; ("und", 0.0) for too little text and for code.

    Languages without such a code have their three letters of ISO 639-3. It looks at up to 1,000 characters.
    """
    half = len(text) // 2
    long = len(text) > 2 * SAMPLE_CHARACTERS
    sample = f"{text[:SAMPLE_CHARACTERS]} {text[half : half + SAMPLE_CHARACTERS]}" if long else text
    if "<unk>" in sample or "@-@" in sample:
        sample = TOKENISED.sub(" ", sample)
    unspaced = 0 if sample.isascii() else len(UNSPACED.findall(sample))
    words = len(WORD.findall(sample)) + unspaced / 2
    if words < FEWEST_WORDS or len(CODE.findall(sample)) > CODE_SIGNS * words:
        return UNDETERMINED, 0.0
    language, probability = _identifier().classify(sample)
    return (
        (UNDETERMINED, 0.0) if language == "zxx" else (str(language), float(probability))
    )  # zxx: no language


_loading = Lock()


def _identifier() -> LanguageIdentifier:
    """The model, loaded by the first who asks; it only reads itself, so all threads may use it at once."""
    with _loading:
        return _load()


@cache
def _load() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _known(languages: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [language for language in languages if language not in _identifier().labels]
    if unknown:
        raise ValueError(
            f"no language is called {', '.join(unknown)}; write ISO 639-1 codes such as en, de, zh"
        )
    return languages


class Language(Filter, Choice):
    """Drops texts in other languages."""

    kind: Literal["language"] = "language"
    languages: Annotated[tuple[str, ...], AfterValidator(_known)] = Field(
        default=("en",),
        min_length=1,
        description="ISO 639-1 codes of the languages to keep, such as en, de, zh.",
    )
    probability: float = Field(
        default=0.65,
        ge=0,
        le=1,
        description="Texts whose language is less sure are dropped. Above 0.9, mixed texts and lists of names go.",
    )  # as FineWeb (Penedo et al. 2024, arXiv 2406.17557), with another model
    undetermined: bool = Field(
        default=False,
        description="Keeps texts whose language cannot be told: under 20 words, and code. Off, they are dropped.",
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        language, probability = language_of(text)
        if language == UNDETERMINED:
            return None if self.undetermined else "language cannot be told"
        if language not in self.languages:
            return f"language is {language}, not {' or '.join(self.languages)}"
        return f"language is {language}, but not surely" if probability < self.probability else None
