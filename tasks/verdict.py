"""What the gate decides by, and what it decided: rules, numbers, reasons, for tags, artifact and card."""

import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from tasks.seed_noise import SeedNoise

TAG = "shoestring.gate"


class Rules(NamedTuple):
    """What a challenger must keep to; see `mlflow.yaml`."""

    alpha: float
    slice_margin: float
    slower_limit: float | None = None
    larger_limit: float | None = None


class SliceVerdict(BaseModel):
    """How a part of the test documents fares; differences are challenger - champion, in bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str  # source, language, length, label, earlier test
    name: str
    documents: int
    champion_bits: float | None = None
    difference: float | None = None
    p_value: float | None = None  # of being worse by more than the margin
    said: Literal["worse", "not worse", "too small to tell"]

    @property
    def described(self) -> str:
        """The slice with its numbers."""
        figures = (
            f", {self.difference:+.4f} on {self.champion_bits:.4f}" if self.difference is not None else ""
        )
        return f"{self.kind} {self.name!r} ({self.documents:,} documents{figures})"


class Verdict(BaseModel):
    """What the gate decided, and on which numbers; differences are challenger - champion, in bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    promoted: bool
    reason: str  # "first", "better", "not better", "too few documents", "... cannot be compared/scored: ..."
    champion_version: int | None = None  # before
    unit: str  # of the numbers
    challenger_bits: float
    champion_bits: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None  # 95 % over documents and trainings
    documents_error: float | None = None  # of the difference: its standard deviation over documents,
    runs_error: float | None = None  # and over trainings with other seeds
    noises: tuple[SeedNoise, ...] = ()  # of the challenger and of the champion: what `runs_error` rests on
    p_value: float | None = None
    alpha: float
    documents: int
    slice_margin: float | None = None
    slices: tuple[SliceVerdict, ...] = ()
    slower: float | None = None  # times the champion's time to read the same, where there is a limit
    larger: float | None = None  # times the bytes of the champion's weights
    vetoes: tuple[str, ...] = ()  # what keeps a better model from becoming champion
    notes: tuple[str, ...] = ()  # what could not be looked at, and why

    @property
    def sentence(self) -> str:
        """The verdict for a person."""
        if self.reason == "first":
            return "champion, as the first of its name"
        role = "champion" if self.promoted else "challenger"
        if self.difference is None:
            return f"{role}: {self.reason}"
        sources = list(dict.fromkeys(noise.source for noise in self.noises))
        but = f", but {' and '.join(self.vetoes)}" if self.vetoes else ""
        return (
            f"{role}: {self.reason} than version {self.champion_version} by the gate "
            f"({self.difference:+.4f} {self.unit}, 95 % {self.difference_low:+.4f} to "
            f"{self.difference_high:+.4f} over {self.documents:,} documents and over trainings by "
            f"{' and '.join(sources)}, p = {self.p_value:.4f}, alpha {self.alpha:g}){but}"
        )

    def overtaken(self, version: int) -> "Verdict":
        """The same numbers without the promotion, as another champion was named while they were taken."""
        reason = f"meanwhile version {version} became champion, with which it was not compared"
        return self.model_copy(update={"promoted": False, "reason": reason, "difference": None})

    def tags(self) -> dict[str, str]:
        """The verdict as tags of a version: one to read, one to parse."""
        return {TAG: self.sentence, f"{TAG}.verdict": self.model_dump_json()}

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "Verdict":
        """The verdict that `tags` were made of. Raises ValueError or KeyError where they hold none."""
        return cls.model_validate(json.loads(tags[f"{TAG}.verdict"]))

    def table(self) -> str:
        """The numbers as Markdown: the difference and what it rests on, every slice; empty where none was taken."""
        if self.difference is None:
            return ""
        rows = {
            "Challenger, champion": f"{self.challenger_bits:.4f}, {self.champion_bits:.4f} {self.unit}",
            "Difference": f"{self.difference:+.4f} (95 % {self.difference_low:+.4f} to {self.difference_high:+.4f})",
            "Its error over documents": f"{self.documents_error:.4f}, {self.documents:,} documents, paired",
            "Its error over trainings": f"{self.runs_error:.4f}",
            "p, alpha": f"{self.p_value:.4f}, {self.alpha:g}",
        }
        for role, noise in zip(("challenger", "champion"), self.noises, strict=False):
            rows[f"Seeds, {role}"] = f"{noise.relative:.2%} of the score, by {noise.source}"
        for figure, value in (("Time to read", self.slower), ("Size", self.larger)):
            if value is not None:
                rows[figure] = f"{value:.2f} times the champion's"
        table = ["| gate | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
        if self.slices:
            table += ["", f"| slice | documents | difference | worse by more than {self.slice_margin:.0%}? |"]
            table += ["|---|---|---|---|"]
        for part in self.slices:
            figures = (
                f"{part.difference:+.4f} on {part.champion_bits:.4f}" if part.difference is not None else ""
            )
            name = part.name.replace("|", "\\|")
            table.append(f"| {part.kind}: {name} | {part.documents:,} | {figures} | {part.said} |")
        return "\n".join([*table, *(f"\n{note[:1].upper()}{note[1:]}." for note in self.notes)])
