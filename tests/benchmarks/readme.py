"""Rewrites the README's tables, between `<!-- bench:NAME -->` and `<!-- end -->`, from the latest results.

NAME is a benchmark, or a benchmark and its part: `training/quality`.

`python -m tests.benchmarks.readme`. Quick results are not for readers.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import RESULTS, short

README = Path(__file__).parents[2] / "README.md"
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


def command(line: dict[str, Any]) -> str:
    """What measures this table again: as it was run, but of several parts only the table's own."""
    name, _, part = line["bench"].partition("/")
    words = PART.sub("", line["arguments"]).split()
    words = ["--part", part, *words] if part else words
    return f"make bench BENCH={name}" + (f' ARGS="{" ".join(words)}"' if words else "")


def rewrite(text: str, results: Path = RESULTS) -> str:
    """The README with its tables made anew. Raises SystemExit where a benchmark has no results."""

    def block(match: re.Match[str]) -> str:
        lines = latest(results, match[2])
        if not lines:
            raise SystemExit(
                f"{results.name} holds no full results of {match[2]}: run make bench BENCH={match[2]}"
            )
        return f"{match[1]}{table(lines)}\n{match[3]}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Writes the README where a table changed."""
    before = README.read_text(encoding="utf-8")
    after = rewrite(before)
    README.write_text(after, encoding="utf-8")
    print(
        "the README's tables are new" if after != before else "the README's tables were up to date",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
