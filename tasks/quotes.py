"""Train documents that quote what is judged on: near enough to a test document to give it away, but no copy."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tasks.contamination import Index

MOST_TEXTS = 10  # runs that stand in more test documents are boilerplate: Brown et al. 2020, appendix C
Flags = npt.NDArray[np.bool_]


def quoting(corpus: Path, words: int, judged: Flags, trained: Flags) -> Flags:
    """bool [documents]: which of the `trained` share so many words in a row with one of the `judged`."""
    found = np.zeros(len(judged), np.bool_)
    with pq.ParquetFile(corpus) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.cumsum([0, *sizes])

        def texts(group: int, there: Flags) -> list[str]:
            rows = file.read_row_group(group, columns=["text"])
            chosen: list[str] = (
                rows["text"].take(np.flatnonzero(there[starts[group] : starts[group + 1]])).to_pylist()
            )
            return chosen

        index = Index.of(
            (text for group in range(len(sizes)) for text in texts(group, judged)), words, MOST_TEXTS
        )
        for group in range(len(sizes)):
            here = np.flatnonzero(trained[starts[group] : starts[group + 1]]) + starts[group]
            found[here] = index.hits(texts(group, trained)) > 0
    return found
