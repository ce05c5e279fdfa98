"""Stages of the data and their baselines, each timed in a process of its own, file to file; see `lanes`."""

import re
import resource
import shutil
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.lanes import Go

Result = dict[str, Any]


def clean_files(go: Go, files: str, out: str, preset: Any, workers: int) -> Result:
    """Our cleaning, from files to `documents.parquet`."""
    from tasks.clean import Cleaning, clean
    from tasks.source import Files

    source, folder = Files(paths=(files,)), _new(out)
    go()
    started = time.perf_counter()
    counts = clean(source.documents(), Cleaning(preset=preset), folder, folder / "drafts", workers=workers)[0]
    return _result(started, read=counts.read, kept=counts.kept, dropped=dict(counts.dropped))


def pack_corpus(go: Go, corpus: str, tokenizer: str, out: str) -> Result:
    """Our packing of a corpus by a tokenizer of ours, from parquet to shards."""
    from tokenizers import Tokenizer

    from tasks.encoding import engine_of
    from tasks.packing import Encoding, Packer, Texts, pack

    engine, folder = engine_of(Tokenizer.from_file(f"{tokenizer}/tokenizer.json")), _new(out)
    texts = Texts(Path(corpus) / "documents.parquet", Path(corpus) / "assignment.parquet")
    go()
    before, started = _peak_mb(), time.perf_counter()
    with Packer(folder, 2**16) as packer:
        done = pack(texts, Encoding(engine, 0, packer.dtype.name), packer, workers=1)
    return _result(started, tokens=sum(done.tokens.values()), changed=done.changed, before_mb=before)


def map_corpus(go: Go, corpus: str, tokenizer: str, out: str) -> Result:
    """The same by `datasets.map` with the same tokenizer, batched, to a dataset on disk."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    spelt = AutoTokenizer.from_pretrained(tokenizer, split_special_tokens=True)  # what a text spells is text
    folder = _new(out)

    def encoded(rows: Result) -> Result:
        return {"input_ids": spelt(rows["text"], add_special_tokens=False)["input_ids"]}

    go()
    started = time.perf_counter()
    rows = datasets.load_dataset(
        "parquet", data_files=f"{corpus}/documents.parquet", split="train", cache_dir=str(folder / "cache")
    )
    made = rows.map(encoded, batched=True, remove_columns=rows.column_names)
    made.save_to_disk(str(folder / "made"))
    seconds = time.perf_counter() - started
    tokens = sum(map(len, made["input_ids"])) + len(made)
    return {**_result(started, tokens=tokens), "seconds": seconds}


def _new(out: str) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    Path(out).mkdir(parents=True)
    return Path(out)


def _peak_mb() -> float:
    """The most memory that this program has held, in MB; `getrusage` would also count what started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1000 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _result(started: float, **found: Any) -> Result:
    seconds = time.perf_counter() - started
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    return {"seconds": seconds, "peak_mb": _peak_mb(), "child_peak_mb": children, **found}
