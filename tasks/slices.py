"""The parts of the test documents: no source, language, length or label may pay for the others."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.difference import difference
from tasks.resampling import Floats, Ints
from tasks.seed_noise import SeedNoise
from tasks.verdict import Rules, SliceVerdict

COLUMNS = ("source", "language")  # beside label and bytes
FEWEST_DOCUMENTS = (
    20  # of a slice: below it, single documents decide, and t-intervals are too narrow (by eye)
)
MOST_VALUES = 20  # of a kind that are looked at, those with most documents; the rest counts as one
REST = "all others"


class Part(NamedTuple):
    """Documents that are judged together: nats by either model, and weight."""

    kind: str
    name: str
    challenger: Floats
    champion: Floats
    weight: Ints


def parts_of(documents: pa.Table, challenger: Floats, champion: Floats, weight: Ints) -> list[Part]:
    """The slices of the test documents, whose rows all four share; a slice that is all of them is none."""
    found = []
    for kind, names in columns_of(documents):
        for name in dict.fromkeys(sorted(set(names.tolist()), key=lambda value: (value == REST, value))):
            rows = names == name
            if name and not rows.all():
                found.append(Part(kind, str(name), challenger[rows], champion[rows], weight[rows]))
    return found


def columns_of(documents: pa.Table) -> Iterator[tuple[str, npt.NDArray[np.object_]]]:
    """Kinds of slices, with the name of every document's; an empty name is none."""
    for kind in ("source", "language", "label"):
        if kind in documents.column_names:
            values = [value or "" for value in documents[kind].to_pylist()]
            yield kind, most_frequent(folders_of(values) if kind == "source" else values)
    sizes = np.asarray(documents["bytes"].to_numpy())
    if len(sizes):
        yield "length", quarters(sizes)


def folders_of(sources: Sequence[str]) -> list[str]:
    """Of many sources, the folder that each lies in: a file of one document says nothing."""
    if len(set(sources)) <= MOST_VALUES:
        return list(sources)
    return [source.rpartition("/")[0] or source for source in sources]


def most_frequent(values: Sequence[str]) -> npt.NDArray[np.object_]:
    """The values, of which all but the MOST_VALUES that occur most are REST."""
    names, counts = np.unique(np.array(values, dtype=object), return_counts=True)
    if len(names) <= MOST_VALUES:
        return np.array(values, dtype=object)
    kept = set(names[np.argsort(-counts, kind="stable")[:MOST_VALUES]])
    return np.array([value if value in kept or not value else REST for value in values], dtype=object)


def quarters(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    """The quarter that each size lies in, by its bounds."""
    bounds = np.unique(np.quantile(sizes, [0.25, 0.5, 0.75]).astype(np.int64))
    edges = [0, *bounds.tolist(), None]
    names = [
        f"over {low:,} bytes" if high is None else f"{low + 1:,} to {high:,} bytes"
        for low, high in pairwise(edges)
    ]
    return np.array([names[at] for at in np.searchsorted(bounds, sizes)], dtype=object)


def judge_parts(
    parts: Sequence[Part], noises: tuple[SeedNoise, SeedNoise], rules: Rules
) -> tuple[SliceVerdict, ...]:
    """Which parts are worse by more than the margin, of the champion's bits there, beyond chance.

    Documents and trainings count, and the chance is shared by all parts (Bonferroni). Those of fewer than
    FEWEST_DOCUMENTS are not judged.
    """
    tested = [part for part in parts if len(part.weight) >= FEWEST_DOCUMENTS]
    found = []
    for part in parts:
        if len(part.weight) < FEWEST_DOCUMENTS:
            said = SliceVerdict(
                kind=part.kind, name=part.name, documents=len(part.weight), said="too small to tell"
            )
        else:
            seen = difference(part.challenger, part.champion, part.weight, noises)
            p_value = seen.chance_above(rules.slice_margin * seen.champion_bits)
            said = SliceVerdict(
                kind=part.kind,
                name=part.name,
                documents=len(part.weight),
                champion_bits=seen.champion_bits,
                difference=seen.bits,
                p_value=p_value,
                said="worse" if p_value < rules.alpha / len(tested) else "not worse",
            )
        found.append(said)
    return tuple(found)
