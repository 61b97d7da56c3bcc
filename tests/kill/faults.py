"""The faults of a schedule: processes that are killed, stopped or paused, connections to the broker that are cut, held
or closed, and channels that are deleted or refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import httpx

from tests.kill.foreign import foreign_queue
from tests.kill.installation import Installation, is_alive, kill_process
from tests.proxy import Proxy
from tests.waiting import until

CALM_S = (0.0, 1.5)  # before each fault
LASTS_S = {
    "killed": (0.0, 1.0),  # until the restart
    "stopped": (0.0, 1.0),
    "paused": (1.0, 12.0),  # around 6 s, when a silent part counts as gone, and 10 s, when its messages are given back
    "cut": (0.0, 0.0),
    "frozen": (15.0, 30.0),
    "vanished": (0.0, 0.0),
    "refused": (2.0, 6.0),
    "closed": (0.0, 0.0),
    "held": (6.0, 13.0),  # longer than RabbitMQ's heartbeat; after two of them both sides close the connection
}
PATIENCE_S = 120.0
MODEL = "steady"
PARTS = {"router": "router", "gateway": "gateway", "catalog": "processors"}  # the parts by their names in schedules

Control = Callable[..., None]
Quiet = Callable[[], AbstractAsyncContextManager[None]]
"""A context manager; within its block no request is unanswered."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault of a schedule: its kind, the pause before it, and its duration."""

    kind: str
    calm_s: float
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.kind} {self.lasts_s:.1f} s"


def schedule(kinds: Sequence[str], steps: int, draw: random.Random) -> list[Step]:
    """Draw a schedule; the last word of a kind is its key in LASTS_S."""
    drawn = []
    for _ in range(steps):
        kind = draw.choice(kinds)
        drawn.append(Step(kind, draw.uniform(*CALM_S), draw.uniform(*LASTS_S[kind.split()[-1]])))
    return drawn


class Faults:
    """Applies the faults of a schedule to an installation, and sums up the redeliveries that replicas count."""

    def __init__(self, installation: Installation, link: Proxy | None, control: Control | None) -> None:
        """`link` is the proxy between the parts and the broker; `control` starts and kills the broker's node."""
        self.redelivered = 0
        self._turn = itertools.count()
        self._installation = installation
        self._link = link
        self._control = control

    async def do(self, step: Step, quiet: Quiet) -> None:
        """Apply one fault and repair it: every process that ended has been started again on return."""
        what, how = step.kind.split()
        if step.kind == "queue vanished":
            async with quiet():
                await self._delete_a_queue()
            return
        act: Callable[[str, float], Awaitable[None]] = {
            "killed": self._kill,
            "stopped": self._stop,
            "paused": self._pause,
            "cut": self._cut,
            "held": self._hold,
            "frozen": self._pause,
            "vanished": self._delete_a_log,
            "refused": self._refuse,
            "closed": self._close,
        }[how]
        await act(what, step.lasts_s)

    async def count(self) -> None:
        """Add the present replica's count of redeliveries, which is lost when the replica ends."""
        with contextlib.suppress(httpx.HTTPError, AssertionError, TimeoutError):
            self.redelivered += await self._installation.redelivered()

    async def _kill(self, what: str, lasts_s: float) -> None:
        if what == "broker":
            await self._kill_broker(lasts_s)
        elif what == "replica":
            await self._signal_replica(signal.SIGKILL)
        else:
            if what == "catalog":
                await self.count()
            self._installation.kill(PARTS[what])
            await self._start(what, lasts_s)

    async def _stop(self, what: str, lasts_s: float) -> None:
        if what == "replica":
            await self._signal_replica(signal.SIGTERM)
        else:
            await self._installation.stop(PARTS[what])
            await self._start(what, lasts_s)

    async def _start(self, what: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._installation.start(PARTS[what])

    async def _signal_replica(self, number: signal.Signals) -> None:
        """Send a signal to the replica and wait for its end; the catalog starts another one."""
        await self.count()
        pid = await self._pid("replica")
        kill_process(pid, number)
        await until(lambda: not is_alive(pid), PATIENCE_S)

    async def _pause(self, what: str, lasts_s: float) -> None:
        pid = await self._pid(what)
        kill_process(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                kill_process(pid, signal.SIGCONT)

    async def _pid(self, what: str) -> int:
        if what == "replica":
            return (await self._installation.replica()).pid
        return self._installation.parts[PARTS[what]].pid

    async def _kill_broker(self, lasts_s: float) -> None:
        assert self._control is not None
        await asyncio.to_thread(self._control, "kill")
        await asyncio.sleep(lasts_s)
        await asyncio.to_thread(self._control, "start")

    async def _cut(self, _: str, __: float) -> None:
        assert self._link is not None
        self._link.cut()

    async def _hold(self, _: str, lasts_s: float) -> None:
        assert self._link is not None
        self._link.hold()
        try:
            await asyncio.sleep(lasts_s)
        finally:
            self._link.go_on()

    async def _delete_a_queue(self) -> None:
        """Delete one of the steady model's queues, in rotation; all of them are empty now."""
        channels = self._installation.channels
        inputs = channels.inputs(MODEL, 1)
        queues = (inputs, channels.requests(MODEL), channels.retry(inputs), channels.results(MODEL))
        await self._installation.broker.delete(queues[next(self._turn) % len(queues)])

    async def _delete_a_log(self, _: str, __: float) -> None:
        channels = self._installation.channels
        logs = (channels.events(MODEL), channels.status)
        await self._installation.broker.delete(logs[next(self._turn) % len(logs)])

    async def _refuse(self, _: str, lasts_s: float) -> None:
        """Declare an endpoint whose queue exists already with a type that we do not support."""
        name = f"later{next(self._turn)}"
        async with foreign_queue(self._installation, name):
            await self._installation.declare(name, f"{MODEL}@1")
            await asyncio.sleep(lasts_s)
            await self._installation.withdraw(name)

    async def _close(self, _: str, __: float) -> None:
        assert self._control is not None
        await asyncio.to_thread(self._control, "ctl", "close_all_connections", "chaos")
