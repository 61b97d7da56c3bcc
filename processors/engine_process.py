"""The default engine: each replica is a process on this machine, which is restarted when it dies."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.support.backoff import Backoff
from processors.engine import Engine, ReplicaTarget

logger = logging.getLogger(__name__)

PAUSE_FIRST_S = 0.2
PAUSE_LONGEST_S = 10.0
HEALTHY_AFTER_S = 30.0

Command = Callable[[str, int, int], Sequence[str]]
"""Maps (model, version, replica number) to the command line that runs the replica."""


@dataclass(slots=True)
class _Slot:
    """One replica that must run."""

    target: ReplicaTarget
    number: int
    process: asyncio.subprocess.Process | None = None
    started_s: float = 0.0
    not_before_s: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=PAUSE_FIRST_S, longest_s=PAUSE_LONGEST_S))


class ProcessEngine(Engine):
    """Runs replicas as child processes, which have `grace_s` seconds to stop.

    Without an `environment` they inherit that of this process.
    """

    def __init__(self, command: Command, *, grace_s: float, environment: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._environment = environment
        self._grace_s = grace_s
        self._slots: dict[tuple[str, int, int, str], _Slot] = {}
        self._lock = asyncio.Lock()  # concurrent calls would start a replica twice

    async def open(self) -> None:
        pass

    async def set_targets(self, targets: list[ReplicaTarget]) -> None:
        keys = {(one.model, one.version, n, one.fingerprint): one for one in targets for n in range(one.replicas)}
        async with self._lock:
            for key in [key for key in self._slots if key not in keys]:
                await self._end([self._slots.pop(key)])
            for key, one in keys.items():
                if key not in self._slots:
                    self._slots[key] = _Slot(one, key[2])
            await self._start_missing()

    async def restart_dead(self) -> None:
        async with self._lock:
            await self._start_missing()

    async def _start_missing(self) -> None:
        now = time.monotonic()
        for slot in self._slots.values():
            if slot.process is not None and slot.process.returncode is not None:
                self._note_death(slot, now)
            if slot.process is None and now >= slot.not_before_s:
                await self._start(slot, now)

    async def close(self) -> None:
        async with self._lock:
            slots, self._slots = list(self._slots.values()), {}
            await self._end(slots)

    async def _start(self, slot: _Slot, now: float) -> None:
        command = self._command(slot.target.model, slot.target.version, slot.number)
        slot.process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, env=self._environment
        )
        slot.started_s = now

    def _note_death(self, slot: _Slot, now: float) -> None:
        code = slot.process.returncode if slot.process else None
        if now - slot.started_s > HEALTHY_AFTER_S:
            slot.backoff.reset()
        pause_s = slot.backoff.next_s()
        logger.warning(
            "replica %d of %s@%d ended with %s; it starts again in %.1f s",
            slot.number,
            slot.target.model,
            slot.target.version,
            _ending(code),
            pause_s,
        )
        slot.process = None
        slot.not_before_s = now + pause_s

    async def _end(self, slots: Sequence[_Slot]) -> None:
        """Stop all at once. A process that exceeds the grace is killed, and its requests are redelivered."""
        running = [slot.process for slot in slots if slot.process is not None and slot.process.returncode is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        waits = [asyncio.ensure_future(process.wait()) for process in running]
        if waits:
            await asyncio.wait(waits, timeout=self._grace_s + 2.0)
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
