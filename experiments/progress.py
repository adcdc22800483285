"""One progress bar: what, how far, how long still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """A running bar."""

    def __init__(self, progress: Progress, total: int, title: str, done: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, completed=done, note="")

    def advance(self, note: str | None = None) -> None:
        """One more done; `note` is shown behind the bar."""
        self._progress.advance(self._task)
        if note is not None:
            self._progress.update(self._task, note=note)


@contextmanager
def progress_bar(title: str, total: int, done: int = 0, console: Console | None = None) -> Iterator[Bar]:
    """A bar over `total` pieces of work with the time left; in a log file only its last state is printed.

    It is drawn on `console`, or where that is None on the standard output.
    """
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("in"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(progress, total, title, done)
