"""The data's stages against the libraries that people use for them: speed on one core, and what is found.

Options: `--part` one of the parts or several with commas between; `--text FILE`, your own text instead of the
modules and documents of the packages installed here; `--repeats N`; `--megabytes N` of text.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median

from tests.benchmarks import data_quality
from tests.benchmarks.__main__ import Arguments
from tests.benchmarks.data_near import (
    measure_contamination,
    measure_crowd,
    measure_near,
    measure_planted,
    with_copies,
)
from tests.benchmarks.data_personal import measure_language, measure_personal, measure_repair
from tests.benchmarks.data_quality import measure_quality
from tests.benchmarks.data_texts import pieces, write_corpus, write_texts
from tests.benchmarks.figures import Figure
from tests.benchmarks.lanes import Job, Result, run_together

Options = argparse.Namespace
JOBS = "tests.benchmarks.data_jobs"
PLANTED_PAIRS = 6000
DECIDED = 3000  # documents, by each rule and datatrove's
SENTENCES = 5000  # with personal data and without
Asked = tuple[str, dict[str, str | int]]  # a job's name and its arguments


def main(arguments: Arguments) -> list[Figure]:
    """The figures of the parts asked for."""
    options = read_options(arguments)
    figures = []
    for part in options.part:
        say(f"-- {part}")
        with tempfile.TemporaryDirectory(prefix="shoestring-bench-", ignore_cleanup_errors=True) as folder:
            options.folder = Path(folder)
            figures += [replace(figure, bench=f"data/{part}") for figure in PARTS[part](options)]
    return figures


def cleaning(options: Options) -> list[Figure]:
    """The whole cleaning with all steps on, by one core and by two."""
    size = write_texts(options.folder / "texts.jsonl", options.text, options.megabytes) / 1e6
    alone, both, apart = [], [], []
    for number in range(options.repeats):
        seen = {}
        for cores in (1, 2) if number % 2 == 0 else (2, 1):
            seen[cores] = run(cleaned("clean", cores), cores, options)
        alone.append(size / seen[1]["seconds"])
        both.append(seen[1]["seconds"] / seen[2]["seconds"])
        beside = run_together([job(cleaned(name, 1), options) for name in ("clean", "clean-too")], 1)
        apart.append(2 * seen[1]["seconds"] / max(one["seconds"] for one in beside))
        kept = f"{seen[1]['kept']:,} of {seen[1]['read']:,}"
        say(f"one core {alone[-1]:.2f} MB/s, two {both[-1]:.2f} of that, apart {apart[-1]:.2f}; kept {kept}")
    return [
        of("whole cleaning, preset web", alone, "MB/s", ">= 1.2", ">= 3"),
        of("two cores against one", both, "times", ">= 1.8"),
        of("the machine's own: two runs side by side against one", apart, "times"),
    ]


def cleaned(out: str, workers: int, preset: str = "web") -> Asked:
    """The cleaning of the part's texts."""
    return "clean_files", {"files": "texts.jsonl", "out": out, "preset": preset, "workers": workers}


def tokenizing(options: Options) -> list[Figure]:
    """Tokens to shards against `datasets.map` with the same tokenizer, on one core."""
    size = write_corpus(options.folder, options.text, options.megabytes) / 1e6
    rates, ratios, peaks = [], [], []
    for number in range(options.repeats):
        jobs = ("pack_corpus", "map_corpus")
        seen = {
            name: run((name, {"corpus": ".", "tokenizer": "tokenizer", "out": name}), 1, options)
            for name in (jobs if number % 2 == 0 else reversed(jobs))
        }
        ours, theirs = seen["pack_corpus"], seen["map_corpus"]
        if ours["tokens"] != theirs["tokens"] or ours["changed"]:
            raise RuntimeError(f"not the same tokens: {ours} and {theirs}")
        rates.append(size / ours["seconds"])
        ratios.append(theirs["seconds"] / ours["seconds"])
        peaks.append(ours["peak_mb"])
        say(f"{rates[-1]:.1f} MB/s, {ratios[-1]:.2f} times datasets.map, {peaks[-1]:.0f} MB")
    return [
        of("tokenizing to shards", rates, "MB/s"),
        of("tokenizing against datasets.map", ratios, "times", ">= 3", ">= 4.5"),
        of(f"peak memory of tokenizing {size:.0f} MB", peaks, "MB", "<= 300"),
    ]


def run(asked: Asked, cores: int, options: Options) -> Result:
    """One job's result."""
    return run_together([job(asked, options)], cores)[0]


def job(asked: Asked, options: Options) -> Job:
    """A job, with its paths below the part's folder."""
    name, arguments = asked
    placed = {
        argument: str(options.folder / value)
        if argument in ("files", "out", "corpus", "tokenizer") and isinstance(value, str)
        else value
        for argument, value in arguments.items()
    }
    return Job(f"{JOBS}:{name}", placed)


def memory(options: Options) -> list[Figure]:
    """The most memory that the whole cleaning holds, over a corpus of 40 times the megabytes asked for."""
    size = write_texts(options.folder / "texts.jsonl", options.text, 40 * options.megabytes) / 1e6
    # As the command has it, whose own process is not set up for speed.
    as_a_command = replace(job(cleaned("clean", 1, "any"), options), settings={})
    seen = run_together([as_a_command], 1)[0]
    return [of(f"peak memory of cleaning {size:,.0f} MB", [seen["peak_mb"] / 1000], "GB", "<= 1", "<= 0.5")]


def near(options: Options) -> list[Figure]:
    """Near-duplicates against datatrove: speed, and what is found of planted copies."""
    documents = with_copies(list(islice(pieces(options.text), int(100 * options.megabytes))), 0.2, 0)
    figures = measure_near(documents, options.repeats, say)
    figures += measure_planted(PLANTED_PAIRS, PLANTED_PAIRS // 4, 0, say)
    return figures + measure_crowd(4000, 200, 0, say)


def quality(options: Options) -> list[Figure]:
    """The published rules against datatrove's: speed, and how often both decide alike."""
    return measure_quality(data_quality.documents(DECIDED), options.repeats, say)


def personal(options: Options) -> list[Figure]:
    """Personal data, planted among what looks like it."""
    return measure_personal(0, SENTENCES, say)


def language(options: Options) -> list[Figure]:
    """The language of texts in twenty of them."""
    return measure_language(say)


def repair(options: Options) -> list[Figure]:
    """Unicode that was decoded wrongly."""
    return measure_repair(0, say)


def contamination(options: Options) -> list[Figure]:
    """Runs of words of evaluation texts, planted in documents."""
    return measure_contamination(20_000, 500, options.repeats, 0, say)


PARTS: dict[str, Callable[[Options], list[Figure]]] = {
    "near": near,
    "quality": quality,
    "cleaning": cleaning,
    "tokenizing": tokenizing,
    "personal": personal,
    "language": language,
    "repair": repair,
    "contamination": contamination,
    "memory": memory,
}


def of(name: str, values: list[float], unit: str, must: str | None = None, aim: str | None = None) -> Figure:
    """A figure: the median of the values, from the least to the greatest."""
    return Figure("data", name, median(values), min(values), max(values), unit, must, aim)


def read_options(arguments: Arguments) -> Options:
    """The benchmark's own options, or what is usual; SystemExit where they are none."""
    parser = argparse.ArgumentParser(prog="make bench BENCH=data", description=__doc__)
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--repeats", type=int, default=1 if arguments.quick else 5)
    parser.add_argument("--megabytes", type=float, default=10 if arguments.quick else 50)
    options = parser.parse_args(arguments.rest)
    options.part = options.part.split(",")
    unknown = [part for part in options.part if part not in PARTS]
    if unknown:
        parser.error(f"--part: there is no {', '.join(unknown)}, only {', '.join(PARTS)}")
    return options


def say(text: str) -> None:
    """Progress, apart from the figures."""
    print(text, file=sys.stderr, flush=True)
