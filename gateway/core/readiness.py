"""What a gateway waits for before it is ready: the logs read, the broker there, everything loaded or known broken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from broker.base import Broker
from broker.delivery.clocks import CLOCKS
from broker.delivery.log_follower import LogFollower
from broker.errors import MillraceError
from router.state.view import View

PING_S = 1.0
PING_FRESH_S = 1.0


class Readiness:
    """Says what is missing, in words. Cheap to ask: the broker is pinged at most once a second.

    At the start it waits until everything in the repository and everything declared is served, or is known to be
    broken. After that one broken model or arm makes only itself unready; `strict` keeps Triton's rule, by which each
    of them makes the whole server unready.
    """

    def __init__(
        self, broker: Broker, view: View, *, strict: bool = False, no_answers: Callable[[], str] = lambda: ""
    ) -> None:
        """`no_answers` returns why no answers can come from the broker."""
        self._broker = broker
        self._view = view
        self._strict = strict
        self._no_answers = no_answers
        self._following: dict[str, LogFollower] = {}
        self._pinging = asyncio.Lock()
        self._pinged_at = float("-inf")
        self._ping_failed = ""
        self._has_read = False
        self._has_loaded = False
        self.stopping = False

    def follow(self, log: str, following: LogFollower) -> None:
        """Wait until a log has been read to the end that was seen at the start."""
        self._following[log] = following

    @property
    def has_read(self) -> bool:
        """Tell whether the logs have been read: what is not known before may exist all the same."""
        self._has_read = self._has_read or all(it.caught_up.is_set() for it in self._following.values())
        return self._has_read

    @property
    def has_loaded(self) -> bool:
        """Tell whether all that there was at the start has been served, or was known to be broken."""
        if not self._has_loaded:
            self._has_loaded = self.has_read and not CLOCKS.is_measuring and not self._loading()
        return self._has_loaded

    async def waiting_for(self) -> list[str]:
        """Return what is missing; an empty list says that this gateway is ready."""
        missing = ["the gateway is stopping"] if self.stopping else []
        if failed := await self._broker_failed():
            missing.append(failed)
        elif reason := self._no_answers():
            missing.append(f"no answers can come: {reason}")
        if CLOCKS.is_lost:
            missing += CLOCKS.troubles() or ["the clock of this machine is hours away from the others': set it right"]
        missing += [
            f"the log {log} is still being read" for log, it in self._following.items() if not it.caught_up.is_set()
        ]
        if refusal := self._view.members.refusal:
            missing.append(refusal)
        return missing + self._models()

    def troubles(self) -> list[str]:
        """Return what is wrong and leaves this gateway ready: broken arms, and what other processes say of theirs."""
        said = [
            f"{one.part} {one.instance}: {trouble}"
            for one, _ in self._view.processes.live()
            for trouble in one.troubles
        ]
        return [*CLOCKS.troubles(), *self._broken_arms(), *said]

    def _models(self) -> list[str]:
        if not self.has_loaded:
            return self._loading()
        return self._broken_arms() if self._strict else []

    def _loading(self) -> list[str]:
        """Return what is neither served nor known to be broken yet."""
        if CLOCKS.is_measuring:
            return ["the clocks of other machines are being compared with this one's"]
        if not self._view.processes.catalogs:
            return ["no catalog has said yet what the model repository holds: do the processors run?"]
        return [
            f"model {model}@{version} is still loading"
            for catalog in self._view.processes.catalogs.values()
            for model, versions in catalog.get("models", {}).items()
            for version in versions
            if not self._view.versions.is_settled(model, version)
        ]

    def _broken_arms(self) -> list[str]:
        broken = []
        for name in self._view.endpoints():
            declaration = self._view.declaration(name)
            if declaration is None:
                continue
            mask = self._view.versions.mask(declaration)
            broken += [
                f"endpoint {name}: arm {arm} ({target.model}@{target.version}) has no ready replica"
                for bit, (arm, target) in enumerate(declaration.arms.items())
                if not mask >> bit & 1
            ]
        return broken

    async def _broker_failed(self) -> str:
        if self._broker.stopped_by:
            return self._broker.stopped_by
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
