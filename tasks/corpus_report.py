"""What a person judges a cleaning by: lengths, languages, what each step took, and examples of it."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks import plots
from tasks.artifacts import EXAMPLES, PICTURE
from tasks.parts import Counts

Sizes = npt.NDArray[np.int64]
LANGUAGES = 12  # that are told apart
QUANTILES = {"shortest": 0.0, "a tenth": 0.1, "half": 0.5, "nine tenths": 0.9, "longest": 1.0}


def write(folder: Path, counts: Counts, sizes: Sizes) -> None:
    """The picture and the examples, beside the documents; `sizes` are those of what is kept, in bytes."""
    rows = [
        {"what": f"{word}: {reason}", "documents": number, **shown._asdict()}
        for word, counted in (("dropped", counts.dropped), ("changed", counts.changed))
        for reason, number in counted.most_common()
        for shown in counts.examples.get(reason, ())
    ]
    for row in rows:
        del row["order"]
    (folder / EXAMPLES).write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    plots.corpus(sizes, counts.dropped, counts.changed, counts.read + counts.cut, folder / PICTURE)


def told_apart(languages: Counter[str]) -> dict[str, int]:
    """The commonest languages, and the rest as others."""
    common = dict(languages.most_common(LANGUAGES))
    rest = languages.total() - sum(common.values())
    return common | ({"others": rest} if rest else {})


def lengths(sizes: Sizes) -> dict[str, int]:
    """Bytes of documents of these ranks in length."""
    if not len(sizes):
        return {}
    return {name: int(np.quantile(sizes, share)) for name, share in QUANTILES.items()}
