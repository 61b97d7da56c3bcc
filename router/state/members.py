"""Gateways and routers of one installation, and whether their settings agree with those of this process.

With another assignment key, the same request key would get another arm there. A key that the settings give counts
before one that was made in a data folder, and of two of a kind the one that the oldest process has: who has another
key that was made draws nothing by key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge

from broker.delivery.heartbeat import Heartbeat
from broker.errors import Unavailable
from broker.records.agreement import Agreement, read_agreement
from broker.records.status import HEARTBEAT_S, SILENT_AFTER_S, Announcement

log = logging.getLogger(__name__)

PARTS = ("gateway", "router")
COMPARED = {
    "key": "secrets.assignment",
    "limit_requests": "broker.limits.requests",
    "limit_bytes": "broker.limits.size",
    "protocol": "protocol version",
    "bundle_bytes": "bundle size",
}
WAY_OUT = "give all of them the same secrets.assignment"


@dataclass(slots=True)
class _Member:
    agreement: Agreement
    heard_s: float


class MemberTable:
    """Who is there, by what they announce. Without `introduce` nothing is compared."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._instance = ""
        self._own: Agreement | None = None
        self._others: dict[str, _Member] = {}
        self.refusal = ""

    def introduce(self, instance: str, own: Agreement | None) -> None:
        """Say who this process is, and what it has."""
        self._instance, self._own = instance, own

    def hear(self, said: Announcement) -> None:
        """Take in an announcement."""
        if said.part not in PARTS or said.instance == self._instance:
            return
        if said.state == "stopped":
            self._others.pop(said.instance, None)
            return
        known, agreement = self._others.get(said.instance), read_agreement(said.full)
        if known is not None and agreement in (None, known.agreement):
            known.heard_s = self._clock()
        elif agreement is not None:
            self._others[said.instance] = _Member(agreement, self._clock())
            self.look()  # at once: nothing is to be drawn meanwhile

    def check_key(self) -> None:
        """Raise Unavailable where another member draws by another assignment key that counts before this one's."""
        if self.refusal:
            raise Unavailable(self.refusal)

    def look(self) -> dict[str, str]:
        """Compare with those that are there now: by setting, what does not agree, in words. Notes what follows."""
        oldest_s = self._clock() - SILENT_AFTER_S
        self._others = {name: one for name, one in self._others.items() if one.heard_s >= oldest_s}
        found = dict(self._differences())
        self.refusal = self._refusal()
        return found

    def _differences(self) -> Iterator[tuple[str, str]]:
        own = self._own
        for field, setting in COMPARED.items() if own is not None else ():
            mine = getattr(own, field)
            others = sorted(name for name, one in self._others.items() if getattr(one.agreement, field) != mine)
            if others:
                shown = "another one" if field == "key" else f"{getattr(self._others[others[0]].agreement, field)}"
                here = "" if field == "key" else f", and {mine} here"
                yield setting, f"{setting} does not agree: {others[0]} has {shown}{here}"

    def _refusal(self) -> str:
        own = self._own
        if own is None or own.is_key_given:
            return ""
        members = {self._instance: own, **{name: one.agreement for name, one in self._others.items()}}
        first = min(members, key=lambda name: _rank(name, members[name]))  # its key counts, for all who share it
        if members[first].key == own.key:
            return ""
        return f"no arm is drawn by key here: {first} has another assignment key, which counts: {WAY_OUT}"


def _rank(instance: str, agreement: Agreement) -> tuple[bool, int, str]:
    return not agreement.is_key_given, agreement.started_us, instance


async def keep_comparing(members: MemberTable, announcer: Heartbeat, registry: CollectorRegistry) -> None:
    """Compare as long as the process lives: what does not agree is logged, announced and measured."""
    gauge = Gauge(
        "millrace_settings_disagree",
        "Whether a setting differs from another member's.",
        ("setting",),
        registry=registry,
    )
    before: dict[str, str] = {}
    while True:
        found = members.look()
        for setting in COMPARED.values():
            gauge.labels(setting).set(float(setting in found))
        if found != before:
            for said in {*found.values()} - {*before.values()}:
                log.warning("%s", said)
            if members.refusal:
                log.error("%s", members.refusal)
            await announcer.warn("; ".join([*found.values(), members.refusal]).removesuffix("; "))
        before = found
        await asyncio.sleep(HEARTBEAT_S / 2)
