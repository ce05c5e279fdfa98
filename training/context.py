"""Where a training runs and whom it tells: the only door between the loop and the world."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from training.checkpoint import Position, load_checkpoint, newest_checkpoint, save_checkpoint
from training.journal import Event, Journal
from training.optimizers import Optimizers


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
    observe: Callable[[Event], None] = _nobody_listens
    stop_asked: Callable[[], bool] = _never
    _journal: Journal | None = None

    def record(self, event: Event) -> None:
        """Rank 0 writes the event down, and passes it on."""
        if self.rank == 0:
            if self._journal is None:
                self._journal = Journal(self.folder / "journal.jsonl")
            event = {**event, "time": time.time()}
            self._journal.append(event)
            self.observe(event)

    def should_stop(self) -> bool:
        """Whether somebody asked this training to end early."""
        return self.rank == 0 and self.stop_asked()

    def save(self, position: Position, model: nn.Module, optimizers: Optimizers) -> None:
        """Rank 0 writes a checkpoint; the journal reaches the disk first."""
        if self.rank == 0:
            if self._journal is not None:
                self._journal.sync()
            save_checkpoint(self.folder / "checkpoints", position, model, optimizers)

    def restore(self, fingerprint: str, model: nn.Module, optimizers: Optimizers) -> Position | None:
        """Goes back to the newest good checkpoint, and the journal with it; None where there is none."""
        path = newest_checkpoint(self.folder / "checkpoints", fingerprint)
        position = load_checkpoint(path, model, optimizers) if path else None
        if self.rank == 0 and (self.folder / "journal.jsonl").exists():
            self._journal = Journal(self.folder / "journal.jsonl")
            self._journal.rewind(position.step if position else 0)
        return position

    def agree(self, progress: float, stop: bool) -> tuple[float, bool]:
        """Rank 0's progress and verdict, on every rank."""
        if self.world_size == 1:
            return progress, stop
        decision = torch.tensor([progress, float(stop)], dtype=torch.float64)
        dist.broadcast(decision, src=0)
        return float(decision[0]), bool(decision[1])

    def close(self) -> None:
        """Puts the journal on disk and lets it go."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
