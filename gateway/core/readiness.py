"""The conditions under which a gateway is ready."""

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
    """Lists the missing conditions as texts. The broker is pinged at most once a second.

    After a start, a gateway is ready once every model of the repository and every declared arm is served or known to
    be broken. Later a broken model or arm makes only itself unready; with `strict`, it makes the whole gateway unready,
    as in Triton.
    """

    def __init__(
        self, broker: Broker, view: View, *, strict: bool = False, no_answers: Callable[[], str] = lambda: ""
    ) -> None:
        """`no_answers` returns the reason why no answers can arrive, or an empty text."""
        self._broker = broker
        self._view = view
        self._strict = strict
        self._no_answers = no_answers
        self._followers: dict[str, LogFollower] = {}
        self._pinging = asyncio.Lock()
        self._pinged_at = float("-inf")
        self._ping_failed = ""
        self._has_read = False
        self._has_loaded = False
        self.stopping = False

    def follow(self, log: str, follower: LogFollower) -> None:
        """Add a log that must have been read up to the end that it had at the start."""
        self._followers[log] = follower

    @property
    def has_read(self) -> bool:
        """True once the logs have been read; before that, an unknown endpoint may exist."""
        self._has_read = self._has_read or all(it.caught_up.is_set() for it in self._followers.values())
        return self._has_read

    @property
    def has_loaded(self) -> bool:
        """True once everything that existed at the start has been served, or has been known to be broken."""
        if not self._has_loaded:
            self._has_loaded = self.has_read and not CLOCKS.is_measuring and not self._loading()
        return self._has_loaded

    async def waiting_for(self) -> list[str]:
        """The missing conditions; an empty list means that this gateway is ready."""
        missing = ["the gateway is stopping"] if self.stopping else []
        if failed := await self._broker_failed():
            missing.append(failed)
        elif reason := self._no_answers():
            missing.append(f"no answers can come: {reason}")
        if CLOCKS.is_lost:
            missing += CLOCKS.troubles() or ["the clock of this machine is hours away from the others: set it right"]
        missing += [
            f"the log {log} is still being read" for log, it in self._followers.items() if not it.caught_up.is_set()
        ]
        if refusal := self._view.members.refusal:
            missing.append(refusal)
        return missing + self._models()

    def troubles(self) -> list[str]:
        """Troubles that leave this gateway ready: broken arms, and the troubles that other processes announce."""
        announced = [
            f"{one.part} {one.instance}: {trouble}"
            for one, _ in self._view.processes.live()
            for trouble in one.troubles
        ]
        return [*CLOCKS.troubles(), *self._broken_arms(), *announced]

    def _models(self) -> list[str]:
        if not self.has_loaded:
            return self._loading()
        return self._broken_arms() if self._strict else []

    def _loading(self) -> list[str]:
        """The models that are neither served nor known to be broken yet."""
        if CLOCKS.is_measuring:
            return ["the clocks of other machines are being compared with this one's"]
        if not self._view.processes.catalogs:
            return ["no catalog has announced the model repository yet: do the processors run?"]
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
