"""Rewrites the tables of both READMEs, between `<!-- bench:NAME -->` and `<!-- end -->`, from the latest results.

NAME is a benchmark, or a benchmark and its part: `training/quality`. `headlines` are a few figures of several.

`python -m tests.benchmarks.readme`. Quick results are not for readers.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import RESULTS, short

PAGES = (Path(__file__).parents[2] / "README.md", Path(__file__).with_name("README.md"))
# Benchmark and figure, and what a reader of the first page is told that it is.
HEADLINES = {
    ("training/quality", "below nanoGPT, 180 s"): "test score below nanoGPT's, 180 s on one core each",
    ("main_job", "difference, test, 5m"): "test score against `transformers.Trainer`'s defaults, 5 minutes",
    ("planning/clock", "on time"): "ended within 2 % and 5 s of the budget, 1 to 6 minutes",
    ("training/scaling", "2 workers against 1, a batch each"): "speed of two workers against one",
    ("training/checkpoint", "stall, a checkpoint every 15 s"): "time that checkpoints take",
    ("data/near", "ours to datatrove's"): "near-duplicates dropped, speed against datatrove's",
    ("data/tokenizing", "tokenizing against datasets.map"): "tokenizing, speed against `datasets.map`",
}
BLOCK = re.compile(r"(<!-- bench:([\w/]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PART = re.compile(r"--part[ =]\S+")


def latest(results: Path, bench: str) -> list[dict[str, Any]]:
    """The last line of each figure of one benchmark, in the order in which figures first came.

    A figure that the benchmark's last run did not measure any more is left out.
    """
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    mine = [line for line in lines if line["bench"] == bench and not line["quick"]]
    newest = {line["figure"]: line for line in mine}
    return [line for line in newest.values() if line["date"] == mine[-1]["date"]]


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown, with a line that says where the figures come from."""
    rows = ["| figure | value | interval | must |", "|---|---|---|---|"]
    for line in lines:
        interval = "" if line["low"] is None else f"{short(line['low'])} to {short(line['high'])}"
        must = f"{line['must']} {'✓' if line['holds'] else '✗'}" if line["must"] else ""
        rows.append(f"| {line['figure']} | {short(line['value'])} {line['unit']} | {interval} | {must} |")
    last = lines[-1]
    machine = last["machine"]
    source = f"{last['date'][:10]}, commit {last['commit']}, {machine['cores']} cores of {machine['cpu']}"
    return "\n".join([*rows, "", f"<sub>{source}, {machine['memory_gb']} GB; `{command(last)}`</sub>"])


def headlines(results: Path) -> str:
    """Markdown of a few figures, each with the command that measures it again."""
    rows = ["| | | interval | `make bench` |", "|---|---|---|---|"]
    machines = set()
    for (bench, name), told in HEADLINES.items():
        line = next((line for line in latest(results, bench) if line["figure"] == name), None)
        if line is None:
            raise SystemExit(f"{results.name} holds no {name!r} of {bench}: run it, or mend HEADLINES")
        interval = f"{short(line['low'])} to {short(line['high'])}"
        how = f"`{command(line).removeprefix('make bench ')}`, {line['date'][:10]}"
        machines.add("{cores} cores of {cpu}, {memory_gb} GB".format(**line["machine"]))
        rows.append(f"| {told} | **{short(line['value'])} {line['unit']}** | {interval} | {how} |")
    return "\n".join([*rows, "", f"<sub>{'; '.join(sorted(machines))}</sub>"])


def command(line: dict[str, Any]) -> str:
    """What measures this table again: as it was run, but of several parts only the table's own."""
    name, _, part = line["bench"].partition("/")
    words = PART.sub("", line["arguments"]).split()
    words = ["--part", part, *words] if part else words
    return f"make bench BENCH={name}" + (f' ARGS="{" ".join(words)}"' if words else "")


def rewrite(text: str, results: Path = RESULTS) -> str:
    """A page with its tables made anew. Raises SystemExit where a benchmark has no results."""

    def block(match: re.Match[str]) -> str:
        if match[2] == "headlines":
            return f"{match[1]}{headlines(results)}\n{match[3]}"
        lines = latest(results, match[2])
        if not lines:
            raise SystemExit(
                f"{results.name} holds no full results of {match[2]}: run make bench BENCH={match[2]}"
            )
        return f"{match[1]}{table(lines)}\n{match[3]}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Writes the pages whose tables changed."""
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = rewrite(before)
        page.write_text(after, encoding="utf-8")
        state = "new" if after != before else "up to date"
        print(f"{page.relative_to(PAGES[0].parent)}: its tables are {state}", file=sys.stderr)


if __name__ == "__main__":
    main()
