"""The thread in which a model computes, beside the event loop."""

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
    """Runs one job after the other in a thread, and passes each result to the event loop.

    An executor would use two futures per job, with a pause several times as long between jobs; and a process could not
    end while its thread hangs.
    """

    def __init__(self, work: Callable[[Job], Result], done: Callable[[Job, Result], None], *, name: str) -> None:
        """`work` runs in the thread, and `done` on the event loop in which the worker is made.

        An exception of `work` is raised on the event loop, and no further job runs.
        """
        self._work = work
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def put(self, job: Job) -> None:
        """Add a job after the waiting ones."""
        self._jobs.put(job)

    def close(self) -> None:
        """Let the thread end after the running job; the waiting jobs are dropped."""
        with contextlib.suppress(Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put(None)

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            while (job := self._jobs.get()) is not None:
                try:
                    result = self._work(job)
                except BaseException as exc:  # noqa: BLE001 - else the error would be lost, and the job would never end
                    self._loop.call_soon_threadsafe(_raise, exc)
                    return
                self._loop.call_soon_threadsafe(self._done, job, result)


def _raise(exc: BaseException) -> None:
    raise exc
