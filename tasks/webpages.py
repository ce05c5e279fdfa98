"""The main text of web pages: what is there to be read, without menus, scripts and the like."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader, BytesIO
from types import TracebackType
from typing import IO, Self

from tasks import formats, page_process
from tasks.formats import LARGEST_BYTES, MARKS, NOT_UTF8, TOO_LARGE, Reason
from tasks.page_process import LENGTH_BYTES, READY

# A page's encoding stands within its first kilobyte (HTML Standard, 4.2.5.4), or where XML has it.
ENCODING = re.compile(
    rb"<(?:meta[^>]{0,200}?charset|\?xml[^>]{0,200}?encoding)\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE
)
ENCODING_BYTES = 1024
# A page of 16 MiB takes 2 seconds and 500 MB; by eye. In parsing HTML both grow with the square of what
# is nested (HTML Standard, 13.2.6.4.7, adoption agency), so that 20 kB can take hours.
PAGE_SECONDS = 10.0
PAGE_MEMORY_BYTES = 640 * 1024**2

NO_TEXT = Reason("no text in the page")
TOO_COSTLY = Reason("web page that takes over 10 seconds or 640 MiB to parse")
OTHER_ENCODING = Reason("not in the encoding that the page names")


class PageReader:
    """Takes the text out of pages, in a process of its own, which starts with the first page."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def texts(self, stream: BufferedReader, cut_bytes: int | None = None) -> Iterator[str | bytes | Reason]:
        """The text of the page that a stream holds, or its pieces of `cut_bytes`; or why there is none."""
        for data in formats.until_broken(formats.beginning(stream) for _ in range(1)):
            text = data if isinstance(data, Reason) else self.text(data)
            if cut_bytes is None or isinstance(text, Reason):
                yield text
            else:
                yield from formats.pieces(BufferedReader(BytesIO(text.encode())), cut_bytes)

    def text(self, data: bytes) -> str | Reason:
        """The main text of a page; of one that has none, all its text; or why there is none."""
        html = decoded(data)
        if isinstance(html, Reason):
            return html
        inbox, outbox = self._pipes()
        page = html.encode()
        try:
            inbox.write(len(page).to_bytes(LENGTH_BYTES) + page)
            inbox.flush()
            length = outbox.read(LENGTH_BYTES)
        except BrokenPipeError:
            length = b""
        if not length:
            self.close()
            return TOO_COSTLY
        return outbox.read(int.from_bytes(length)).decode() or NO_TEXT

    def close(self) -> None:
        """Ends the process; the next page starts another."""
        if self._process is not None:
            self._process.kill()
            with suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None:
            limits = [str(PAGE_SECONDS), str(PAGE_MEMORY_BYTES)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", page_process.__file__, *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            if self._pipes()[1].read(len(READY)) != READY:
                raise RuntimeError("the process that parses web pages does not start")
        inbox, outbox = self._process.stdin, self._process.stdout
        assert inbox is not None and outbox is not None
        return inbox, outbox

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()


def decoded(data: bytes) -> str | Reason:
    """A page in the encoding of its byte-order mark, in UTF-8, or in the one that it names."""
    if len(data) > LARGEST_BYTES:
        return TOO_LARGE
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return _in(encoding, data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeError:
        from resiliparse.parse.encoding import map_encoding_to_html5

        named = ENCODING.search(data, 0, ENCODING_BYTES)
        label = named[1].decode("ascii", "replace") if named else ""
        standard = map_encoding_to_html5(label, fallback_utf8=False)
        return NOT_UTF8 if standard is None or standard.startswith("utf-") else _in(standard, data)


def _in(encoding: str, data: bytes) -> str | Reason:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return OTHER_ENCODING
