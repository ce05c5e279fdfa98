"""What a person at a terminal sees: a line for each stage, with a bar while it lasts."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tasks import telemetry


class StageLines:
    """Draws stages on standard error, so that standard output stays for results."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", style="dim"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        telemetry.draw_on(self)
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        telemetry.draw_on(None)
        if self._live:
            self._progress.stop()

    def say(self, line: str) -> None:
        """One line above the bars."""
        self._console.print(line, soft_wrap=True)

    def begin(self, stage: str) -> None:
        if self._live:
            self._bars[stage] = self._progress.add_task(stage, total=1.0, detail="")

    def move(self, stage: str, share: float, detail: str) -> None:
        if stage in self._bars:
            self._progress.update(self._bars[stage], completed=share, detail=detail)

    def end(self, stage: str, result: str, seconds: float) -> None:
        if stage in self._bars:
            self._progress.remove_task(self._bars.pop(stage))
        self._console.print(
            f"[green]✓[/green] [bold]{stage}[/bold]  {result}  [dim]{seconds:.1f} s[/dim]", soft_wrap=True
        )
        sys.stderr.flush()
