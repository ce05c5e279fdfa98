"""The append-only record of a training: one JSON line an event, kept through any kill."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]  # JSON values; always has "event", "step" and "time"
SYNC_SECONDS = 1.0  # a power cut may take this much; a killed process takes nothing


class Journal:
    """Appends events to a file; a half-written last line, left by a kill, is dropped on opening."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        whole = path.read_bytes() if path.exists() else b""
        if not whole.endswith(b"\n") and whole:
            path.write_bytes(whole[: whole.rfind(b"\n") + 1])
        self._file = path.open("a", encoding="utf-8")
        self._synced = time.monotonic()

    def append(self, event: Event) -> None:
        """Adds one line; on disk for good within SYNC_SECONDS of the next append."""
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Puts everything appended so far on disk for good."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def rewind(self, step: int) -> None:
        """Forgets what came after `step`, as a resumed training does it again."""
        self._file.close()
        kept = [event for event in read_journal(self.path) if event["step"] <= step]
        draft = self.path.with_suffix(".draft")
        draft.write_text("".join(json.dumps(event) + "\n" for event in kept))
        draft.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        self.sync()
        self._file.close()


def read_journal(path: Path) -> Iterator[Event]:
    """The events of a journal, oldest first; a half-written last line is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
