"""What a gateway waits for before it is ready: the logs read, the broker there, every declared arm served."""

from __future__ import annotations

import asyncio
import time

from broker.base import Broker
from broker.errors import MillraceError
from broker.following import Following
from router.view import View

PING_S = 1.0
PING_FRESH_S = 1.0


class Readiness:
    """Says what is missing, in words. Cheap to ask: the broker is pinged at most once a second."""

    def __init__(self, broker: Broker, view: View) -> None:
        self._broker = broker
        self._view = view
        self._following: dict[str, Following] = {}
        self._pinging = asyncio.Lock()
        self._pinged_at = float("-inf")
        self._ping_failed = ""
        self._has_read = False
        self.stopping = False

    def follow(self, log: str, following: Following) -> None:
        """Wait until a log has been read to the end that was seen at the start."""
        self._following[log] = following

    @property
    def has_read(self) -> bool:
        """Tell whether the logs have been read: what is not known before may exist all the same."""
        self._has_read = self._has_read or all(it.caught_up.is_set() for it in self._following.values())
        return self._has_read

    async def waiting_for(self) -> list[str]:
        """Return what is missing; an empty list says that this gateway is ready."""
        missing = ["the gateway is stopping"] if self.stopping else []
        if failed := await self._broker_failed():
            missing.append(failed)
        missing += [
            f"the log {log} is still being read" for log, it in self._following.items() if not it.caught_up.is_set()
        ]
        if refusal := self._view.members.refusal:
            missing.append(refusal)
        return missing + self._arms()

    def _arms(self) -> list[str]:
        missing = []
        for name in self._view.endpoints():
            declaration = self._view.declaration(name)
            if declaration is None:
                continue
            mask = self._view.mask(declaration)
            missing += [
                f"endpoint {name}: arm {arm} ({target.model}@{target.version}) has no ready replica"
                for bit, (arm, target) in enumerate(declaration.arms.items())
                if not mask >> bit & 1
            ]
        return missing

    async def _broker_failed(self) -> str:
        async with self._pinging:
            if time.monotonic() - self._pinged_at >= PING_FRESH_S:
                self._ping_failed = await self._ping()
                self._pinged_at = time.monotonic()
            return self._ping_failed

    async def _ping(self) -> str:
        try:
            async with asyncio.timeout(PING_S):
                await self._broker.ping()
        except TimeoutError:
            return f"the broker has not answered for {PING_S:.0f} s"
        except MillraceError as exc:
            return str(exc)
        return ""
