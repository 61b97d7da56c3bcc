"""Upkeep of channels: what this process declared is made again when it vanishes.

A queue, stream or topic can be deleted behind our back, by a person or by another program. A look at what is there
costs the broker something, so each look takes a part of the channels, in turn. Consumers, and publishes that find no
queue, ask for an earlier look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from broker.channels import Limits
from broker.errors import MillraceError, TryAgain

log = logging.getLogger(__name__)

EVERY_S = 5.0
AT_ONCE = 250  # channels a look
# RabbitMQ 3.10 does not tell a consumer that its queue was deleted if the next one is there within 50 ms.
SETTLE_S = 0.3

Missing = Callable[[Sequence[str]], Awaitable[Sequence[str]]]
Make = Callable[[str, Limits], Awaitable[None]]


class Upkeep:
    """The channels that one broker connection has declared."""

    def __init__(self, missing: Missing, make: Make) -> None:
        """`missing` returns which of some channels are not there; `make` declares one."""
        self._missing = missing
        self._make = make
        self._kept: dict[str, Limits] = {}  # the first was looked at longest ago
        self._urgent: set[str] = set()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.troubles: dict[str, str] = {}
        """Channels that vanished and cannot be made again, each with the reason."""

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="upkeep of channels")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def note(self, channel: str, limits: Limits) -> None:
        """Keep a channel from now on."""
        self._kept[channel] = limits
        self.troubles.pop(channel, None)

    def forget(self, channel: str) -> None:
        """Let a channel go: its absence is meant."""
        self._kept.pop(channel, None)
        self._urgent.discard(channel)
        self.troubles.pop(channel, None)

    def keeps(self, channel: str) -> bool:
        """Tell whether a channel is one of those that are kept."""
        return channel in self._kept

    def suspect(self, channels: Iterable[str]) -> None:
        """Look soon at channels that seem to be gone; others than those that are kept are left alone."""
        if found := self._kept.keys() & set(channels):
            self._urgent |= found
            self._hurry.set()

    def suspect_all(self) -> None:
        """Look soon at everything: all of it may be gone at once."""
        self.suspect(list(self._kept))

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._hurry.clear()
            await self.look()

    async def look(self) -> None:
        """Look at the suspects, else at the channels whose turn it is, and make what is missing."""
        channels = self._next()
        try:
            gone = await self._missing(channels) if channels else ()
            if gone:
                await asyncio.sleep(SETTLE_S)
        except TryAgain as exc:
            log.info("%d channels could not be looked at: %s", len(channels), exc)
            return
        for channel in set(channels).difference(gone):
            self.troubles.pop(channel, None)  # another process may have made it again
        for channel in gone:
            if channel in self._kept:
                await self._make_again(channel)

    def _next(self) -> list[str]:
        if self._urgent:
            chosen, self._urgent = list(self._urgent), set()
            return chosen
        chosen = list(self._kept)[:AT_ONCE]
        for channel in chosen:
            self._kept[channel] = self._kept.pop(channel)
        return chosen

    async def _make_again(self, channel: str) -> None:
        try:
            await self._make(channel, self._kept[channel])
        except MillraceError as exc:
            if channel not in self.troubles:
                log.error("channel %s has vanished and cannot be made again: %s; trying again", channel, exc)  # noqa: TRY400 - a person can mend this: a traceback would only hide it
            self.troubles[channel] = str(exc)
            return
        self.troubles.pop(channel, None)
        log.warning("channel %s had vanished and was made again; what was in it is lost", channel)
