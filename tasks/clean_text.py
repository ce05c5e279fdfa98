"""`shoestring clean-text`: the cleaning by itself, from files to a folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.artifacts import EXAMPLES, PICTURE, Corpus, InputError
from tasks.clean import Cleaning, store_corpus
from tasks.recipe import check_parameters, put_in, refuse_secrets
from tasks.source import Files, Source
from tasks.terminal import StageLines

SHOWN_CHARACTERS = 70  # of an example, on the terminal


def clean_text(paths: Sequence[str], out: Path, preset: str | None, settings: Sequence[str]) -> Corpus:
    """The corpus of these files; `out` then holds `documents.parquet`, `corpus.png` and `examples.json`.

    Raises InputError where files or settings are none, or `out` is there and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} is there already: name a new folder")
    sections: dict[str, Any] = {"source": {"paths": list(paths)}}
    sections = put_in(sections, settings)
    if preset is not None:
        sections.setdefault("cleaning", {})["preset"] = preset
    refuse_secrets(sections)
    chosen = check_parameters(_sections, sections)
    chosen["source"].check()
    with StageLines():
        corpus = store_corpus(chosen["source"], chosen["cleaning"])
    out.mkdir(parents=True, exist_ok=True)
    for file in (corpus.folder / "documents.parquet", *corpus.files()):
        shutil.copy(file, out)
    return corpus


def _sections(source: Source = Files(paths=("-",)), cleaning: Cleaning = Cleaning()) -> None:  # noqa: B008
    """The sections that a cleaning by itself has."""


def tell(corpus: Corpus, out: Path, as_json: bool) -> None:
    """Prints what became of the documents, with an example for each reason; or one JSON object."""
    if as_json:
        print(corpus.model_dump_json())
        return
    table = Table("what", "documents")
    for row in corpus.rows():
        table.add_row(row["what"], "" if row["documents"] is None else f"{row['documents']:,}")
    shown = Table("what", "for example")
    reasons: set[str] = set()
    for example in corpus.examples():
        if example["what"] not in reasons:
            reasons.add(example["what"])
            text = " ".join(example["before"].split())[:SHOWN_CHARACTERS]
            shown.add_row(example["what"], f"{example['source']}: {text}")
    console = Console()
    console.print(table)
    if reasons:
        console.print(shown)
    console.print(f"In {out}: documents.parquet, {PICTURE}, {EXAMPLES}", highlight=False)
