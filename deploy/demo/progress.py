"""Shows the progress of the demonstration: bars on a terminal, and a line for each finished step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """The steps of a long command, one after the other."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show one step while the block runs; yields a function that is called with the number of newly done items."""
        started = time.monotonic()
        done = 0
        with self._bar() as bar:
            task = bar.add_task(what, total=total)

            def advance(count: int = 1) -> None:
                nonlocal done
                done += count
                bar.advance(task, count)

            yield advance
        took = f"{time.monotonic() - started:.1f} s"
        count = "" if total is None else f"{done} of {total}, "
        self._console.print(f"{what}: {count}{took}", highlight=False)

    def _bar(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
