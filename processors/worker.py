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

    An executor does the same by way of two futures, and takes several times as long between one job and the next; and
    a process could not end while its thread hangs.
    """

    def __init__(self, work: Callable[[Job], Result], done: Callable[[Job, Result], None], *, name: str) -> None:
        """`work` runs in the thread, `done` on the event loop of whoever makes the worker.

        What `work` raises is raised on the event loop, and no job is done after it.
        """
        self._work = work
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

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
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
            while (job := self._jobs.get()) is not None:
                try:
                    result = self._work(job)
                except BaseException as exc:  # noqa: BLE001 - nobody else would hear of it, and its job would never end
                    self._loop.call_soon_threadsafe(_raise, exc)
                    return
                self._loop.call_soon_threadsafe(self._done, job, result)


def _raise(exc: BaseException) -> None:
    raise exc
