"""The steps of the cleaning that know one document at a time, and the presets that are made of them."""

from typing import Annotated, Literal

from pydantic import Field

from tasks.boilerplate import BoilerplateLines
from tasks.changes import Normalise, RepairUnicode
from tasks.contamination import Contamination
from tasks.filters import CodeQuality, MostlySymbols, Repetitive, TooShort, UnbrokenRun, Unprintable
from tasks.language import Language
from tasks.personal import PersonalData
from tasks.quality import C4Quality, FineWebQuality, GopherQuality, GopherRepetition
from tasks.text import Step
from tasks.toxic import ToxicWords
from training.config import AnyOf

Preset = Literal["any", "code", "prose", "web", "none"]
Kind = Literal[
    "repair_unicode",
    "normalise",
    "boilerplate_lines",
    "language",
    "too_short",
    "unprintable",
    "mostly_symbols",
    "unbroken_run",
    "repetitive",
    "code_quality",
    "gopher_repetition",
    "gopher_quality",
    "c4_quality",
    "fine_web_quality",
    "toxic_words",
    "contamination",
    "personal_data",
]

_PLAIN: tuple[Step, ...] = (RepairUnicode(), TooShort(), Unprintable())
PRESETS: dict[Preset, tuple[Step, ...]] = {
    "any": (*_PLAIN, MostlySymbols(), UnbrokenRun(), Repetitive()),
    "code": (*_PLAIN, UnbrokenRun(), Repetitive(), CodeQuality()),
    "prose": (*_PLAIN, Normalise(), GopherRepetition(), GopherQuality()),
    # The order of FineWeb (Penedo et al. 2024, section 3): cheap rules would come first, but each counts what it takes.
    "web": (
        *_PLAIN,
        Normalise(),
        BoilerplateLines(),
        Language(),
        GopherRepetition(),
        GopherQuality(),
        C4Quality(),
        FineWebQuality(),
        PersonalData(),
    ),
    "none": (),
}

AnyStep = Annotated[
    RepairUnicode
    | Normalise
    | BoilerplateLines
    | Language
    | TooShort
    | Unprintable
    | MostlySymbols
    | UnbrokenRun
    | Repetitive
    | CodeQuality
    | GopherRepetition
    | GopherQuality
    | C4Quality
    | FineWebQuality
    | ToxicWords
    | Contamination
    | PersonalData,
    Field(discriminator="kind"),
    AnyOf(),
]
