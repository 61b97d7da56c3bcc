"""The thread in which a pipeline's model computes, beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Worker(Generic[Job, Result]):
    """Does one job after the other in a thread of its own; the event loop hears of each result.

    An executor does the same by way of two futures, and takes several times as long between one job and the next.
    """

    def __init__(self, work: Callable[[Job], Result], done: Callable[[Job, Result], None], *, name: str) -> None:
        """`work` runs in the thread and must not raise; `done` runs on the event loop of whoever makes the worker."""
        self._work = work
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name).start()

    def put(self, job: Job) -> None:
        """Do a job after those that wait."""
        self._jobs.put(job)

    def close(self) -> None:
        """Let the thread go: the job that runs is ended, those that wait are forgotten."""
        with contextlib.suppress(Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            result = self._work(job)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
                self._loop.call_soon_threadsafe(self._done, job, result)
