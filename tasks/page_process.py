"""The process that parses web pages: one that takes too much time or memory ends it, and not the run.

Run as a script by `tasks.webpages` (`page_process.py SECONDS BYTES`); imports nothing of this project. Reads pages
from its input and writes their texts to its output, each in UTF-8 after its length in 8 bytes.
"""

import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

LENGTH_BYTES = 8
READY = b"ready"
# Main text takes the square of a page's depth, which begins to tell at some thousand tags within one another.
FEW_TAGS = 4096
DEEPEST = ">".join(["*"] * 512)  # where browsers stop


def main_text(html: str) -> str:
    """The main text of a page; of one that has none, or is nested without end, all its text."""
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    deep = (
        html.count("<") > FEW_TAGS and tree.body is not None and tree.body.query_selector(DEEPEST) is not None
    )
    return ("" if deep else _text(tree, True)) or _text(tree, False)


def _text(tree: "HTMLTree", main_content: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(tree, main_content=main_content, preserve_formatting=True, alt_texts=False)
    return str(text).strip()


def serve(seconds: float, memory_bytes: int) -> None:
    """Answers until its input ends, or dies of a page that takes more than `seconds` of processor time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked stops, and closes the input
    with suppress(ValueError, OSError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main_text("<p>loads what it needs</p>")
    inbox, outbox = sys.stdin.buffer, sys.stdout.buffer
    outbox.write(READY)
    outbox.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # what is said about lack of memory
    while length := inbox.read(LENGTH_BYTES):
        html = inbox.read(int.from_bytes(length)).decode()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        text = main_text(html).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        outbox.write(len(text).to_bytes(LENGTH_BYTES) + text)
        outbox.flush()


if __name__ == "__main__":
    from resiliparse.parse.html import HTMLParserException

    try:
        serve(float(sys.argv[1]), int(sys.argv[2]))
    except (MemoryError, HTMLParserException):
        sys.exit(1)
