"""Makes channels again that this process declared and that were deleted.

Another program or a person can delete a queue, stream or topic at any time. Checks load the broker, so each one covers
only some of the channels, in turn. Consumers, and publishes that find no queue, ask for an earlier check.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from broker.channels import Limits
from broker.errors import MillraceError, TryAgain
from broker.support.tasks import wait_for_event

logger = logging.getLogger(__name__)

EVERY_S = 5.0
CHANNELS_A_CHECK = 250  # channels in one check
# RabbitMQ 3.10 does not notify a consumer of a deleted queue if a new one of its name exists within 50 ms.
SETTLE_S = 0.3

Missing = Callable[[Sequence[str]], Awaitable[Sequence[str]]]
Make = Callable[[str, Limits], Awaitable[None]]


class Upkeep:
    """The channels that one broker connection has declared."""

    def __init__(self, missing: Missing, make: Make, *, settle_s: float = SETTLE_S) -> None:
        """`missing` returns those of some channels that do not exist; `make` declares one."""
        self._missing = missing
        self._make = make
        self._settle_s = settle_s
        self._channels: dict[str, Limits] = {}  # the first one was checked longest ago
        self._urgent: set[str] = set()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.troubles: dict[str, str] = {}
        """Channels that vanished and cannot be made again, each with the error."""

    def start(self) -> None:
        """Start the periodic checks."""
        self._task = asyncio.create_task(self._run(), name="upkeep of channels")

    async def stop(self) -> None:
        """Stop the checks."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def note(self, channel: str, limits: Limits) -> None:
        """Keep a channel from now on."""
        self._channels[channel] = limits
        self.troubles.pop(channel, None)

    def forget(self, channel: str) -> None:
        """Stop keeping a channel: it is deleted on purpose."""
        self._channels.pop(channel, None)
        self._urgent.discard(channel)
        self.troubles.pop(channel, None)

    def keeps(self, channel: str) -> bool:
        """Return True if a channel is kept."""
        return channel in self._channels

    def suspect(self, channels: Iterable[str]) -> None:
        """Check these channels soon, because they seem to be gone; channels that are not kept are ignored."""
        if found := self._channels.keys() & set(channels):
            self._urgent |= found
            self._hurry.set()

    def suspect_all(self) -> None:
        """Check all channels soon: all of them may be gone at once."""
        self.suspect(list(self._channels))

    async def _run(self) -> None:
        while True:
            await wait_for_event(self._hurry, EVERY_S)
            self._hurry.clear()
            await self.check()

    async def check(self) -> None:
        """Check the suspected channels, or else the next ones in turn, and make the missing ones."""
        channels = self._next()
        try:
            gone = await self._missing(channels) if channels else ()
            if gone:
                await asyncio.sleep(self._settle_s)
        except TryAgain as exc:
            logger.info("%d channels could not be checked: %s", len(channels), exc)
            return
        for channel in set(channels).difference(gone):
            self.troubles.pop(channel, None)  # another process may have made it again
        for channel in gone:
            if channel in self._channels:
                await self._make_again(channel)

    def _next(self) -> list[str]:
        if self._urgent:
            chosen, self._urgent = list(self._urgent), set()
            return chosen
        chosen = list(self._channels)[:CHANNELS_A_CHECK]
        for channel in chosen:
            self._channels[channel] = self._channels.pop(channel)
        return chosen

    async def _make_again(self, channel: str) -> None:
        try:
            await self._make(channel, self._channels[channel])
        except MillraceError as exc:
            if channel not in self.troubles:
                logger.error("channel %s has vanished and cannot be made again: %s; trying again", channel, exc)  # noqa: TRY400 - a person can fix this, and a traceback would hide the reason
            self.troubles[channel] = str(exc)
            return
        self.troubles.pop(channel, None)
        logger.warning("channel %s had vanished and was made again; its messages are lost", channel)
