"""Where a training runs and whom it tells: the only door between the loop and the world."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from training.journal import Event, Journal
from training.state import Position, State

MICRO_ROWS = "micro_rows"  # in a training's folder: what memory was found to hold


def _nobody_listens(event: Event) -> None: ...


def _never() -> bool:
    return False


@dataclass
class Context:
    """One rank of one training. Rank 0 keeps the journal, tells the observer and asks whether to stop.

    `folder` holds `journal.jsonl` and `checkpoints/`. `observe` is told every event;
    `stop_asked` answers before each step.
    """

    folder: Path
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    checkpoint_seconds: float | None = None
    peak_flops: float | None = None  # matrix products a second that this process reaches, if measured
    observe: Callable[[Event], None] = _nobody_listens
    stop_asked: Callable[[], bool] = _never
    pause_at: float = 1.0  # progress after which the training ends early, to go on another time
    micro_rows: int | None = None  # rows at once, since memory ran out with more
    _journal: Journal | None = None
    _step: int = 0

    def __post_init__(self) -> None:
        remembered = self.folder / MICRO_ROWS
        if remembered.exists():
            self.micro_rows = int(remembered.read_text())

    def halve(self, rows: int) -> None:
        """Has every later step, also after a restart, take half of `rows` at once."""
        self.micro_rows = max(1, rows // 2)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MICRO_ROWS).write_text(str(self.micro_rows))
        reason = f"memory ran out with {rows} rows at once; {self.micro_rows} from here on"
        self.record({"event": "halved", "step": self._step, "reason": reason})

    def record(self, event: Event) -> None:
        """Rank 0 writes the event down, and passes it on."""
        self._step = event["step"]
        if self.rank == 0:
            if self._journal is None:
                self._journal = Journal(self.folder / "journal.jsonl")
            event = {**event, "time": time.time()}
            self._journal.append(event)
            self.observe(event)

    def stops(self, progress: float) -> bool:
        """Whether the training is to end early, after this step."""
        return self.stop_asked() or self.pause_at <= progress < 1.0

    def is_due(self, saved: float, stops: bool) -> bool:
        """Whether a checkpoint is to be written, the last one being of `saved`, by the monotonic clock.

        One is due whenever the training `stops` early; none ever is without `checkpoint_seconds`.
        """
        if self.checkpoint_seconds is None:
            return False
        return stops or time.monotonic() - saved > self.checkpoint_seconds

    def save(self, position: Position, state: State) -> None:
        """Rank 0 writes a checkpoint, of which all ranks may hold parts; the journal reaches the disk first."""
        if self._journal is not None:
            self._journal.sync()
        save_checkpoint(self.folder / "checkpoints", position, state, writes=self.rank == 0)

    def restore(self, fingerprint: str, state: State) -> Position | None:
        """Goes back to the newest good checkpoint, and the journal with it; None where there is none."""
        position = self.roll_back(fingerprint, state)
        if self.rank == 0 and (self.folder / "journal.jsonl").exists():
            self._journal = Journal(self.folder / "journal.jsonl")
            self._journal.rewind(position.step if position else 0)
        return position

    def roll_back(self, fingerprint: str, state: State) -> Position | None:
        """As `restore`, but what happened since stays in the journal."""
        path = newest_checkpoint(self.folder / "checkpoints", fingerprint)
        return load_checkpoint(path, state) if path else None

    def sums(self, *values: float) -> list[float]:
        """Each value summed over all ranks."""
        if self.world_size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return [float(total) for total in totals]

    def close(self) -> None:
        """Puts the journal on disk and lets it go."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
