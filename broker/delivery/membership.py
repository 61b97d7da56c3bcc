"""The life cycle of a process: follow `declared` and `status`, send heartbeats, announce the end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from broker.base import Broker
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.log_follower import LogFollower, follow_status
from broker.messages import Record
from broker.records.status import FULL_EVERY_S, State
from broker.support.tasks import Tasks

Fold = Callable[[Record], object]  # its result is not used


class Membership:
    """One process (or one model version in it) in an installation.

    Its order is: `follow`, `caught_up` if it needs the whole state, `announce`, its work, `leave`. Background tasks of
    the process that end with it are started by `spawn`.
    """

    def __init__(self, broker: Broker, heartbeat: Heartbeat) -> None:
        self._broker = broker
        self._heartbeat = heartbeat
        self._tasks = Tasks()
        self._followers: dict[str, LogFollower] = {}
        self._beats = False

    async def follow(
        self,
        *,
        declared: Fold | None = None,
        status: Fold,
        status_since_s: float = 2 * FULL_EVERY_S,
        on_declared_recreated: Callable[[], None] = lambda: None,
    ) -> Mapping[str, LogFollower]:
        """Declare both logs, and start to fold their records. Returns the followers by the name of their log.

        `declared` is read from its beginning, `status` from `status_since_s` seconds ago.
        """
        broker = self._broker
        await broker.declare(broker.channels.declared)
        await broker.declare(broker.channels.status)
        if declared is not None:
            self._followers["declared"] = LogFollower(
                broker, broker.channels.declared, 0, declared, on_recreated=on_declared_recreated
            )
        self._followers["status"] = follow_status(broker, status, since_s=status_since_s)
        for name, follower in self._followers.items():
            self.spawn(follower.run(), name)
        return self._followers

    async def caught_up(self) -> None:
        """Wait until the followed logs have been read to the ends that they had at the start."""
        for follower in self._followers.values():
            await follower.caught_up.wait()

    async def announce(self, state: State, *, full: dict[str, Any] | None = None) -> None:
        """Announce a state now, and from then on by heartbeats."""
        await self._heartbeat.set_state(state, full=full)
        self.beat()

    def beat(self) -> None:
        """Start the heartbeats, of a process that announces its states itself."""
        if not self._beats:
            self._beats = True
            self.spawn(self._heartbeat.beat(), "heartbeat")

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Start a background task that ends when the process leaves."""
        self._tasks.spawn(work, name)

    async def leave(self) -> None:
        """Announce `stopped`, and end the background tasks."""
        await self._heartbeat.set_state("stopped")
        await self.end_tasks()

    async def end_tasks(self) -> None:
        """End the background tasks, of a process that has announced its end itself."""
        await self._tasks.cancel()
