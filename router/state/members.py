"""Gateways and routers of one installation, and whether their settings agree with those of this process.

With another assignment key the same request key would get another arm. One key is the right one: a key from the
settings comes before one that was generated in a data folder, and among keys of the same origin the key of the oldest
process. A process with another generated key draws no arm by request key.
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

logger = logging.getLogger(__name__)

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
    seen_s: float


class MemberTable:
    """The other members, by their announcements. Nothing is compared before `introduce` is called."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._instance = ""
        self._own: Agreement | None = None
        self._others: dict[str, _Member] = {}
        self.refusal = ""

    def introduce(self, instance: str, own: Agreement | None) -> None:
        """Set the name and the settings of this process."""
        self._instance, self._own = instance, own

    def fold(self, announcement: Announcement) -> None:
        """Fold an announcement of any process."""
        if announcement.part not in PARTS or announcement.instance == self._instance:
            return
        if announcement.state == "stopped":
            self._others.pop(announcement.instance, None)
            return
        known, agreement = self._others.get(announcement.instance), read_agreement(announcement.full)
        if known is not None and agreement in (None, known.agreement):
            known.seen_s = self._clock()
        elif agreement is not None:
            self._others[announcement.instance] = _Member(agreement, self._clock())
            self.compare()  # at once: no arm may be drawn with a wrong key meanwhile

    def check_key(self) -> None:
        """Raise Unavailable if this process has another assignment key than the right one."""
        if self.refusal:
            raise Unavailable(self.refusal)

    def compare(self) -> dict[str, str]:
        """Compare the settings with those of all live members; return a message by setting that differs.

        Updates `refusal`.
        """
        oldest_s = self._clock() - SILENT_AFTER_S
        self._others = {name: one for name, one in self._others.items() if one.seen_s >= oldest_s}
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
        first = min(members, key=lambda name: _rank(name, members[name]))  # this member has the right key
        if members[first].key == own.key:
            return ""
        return f"no arm is drawn by key here: {first} has another assignment key, which is the right one: {WAY_OUT}"


def _rank(instance: str, agreement: Agreement) -> tuple[bool, int, str]:
    return not agreement.is_key_given, agreement.started_us, instance


async def keep_comparing(members: MemberTable, heartbeat: Heartbeat, registry: CollectorRegistry) -> None:
    """Compare in a loop; log, announce and measure the settings that differ."""
    gauge = Gauge(
        "millrace_settings_disagree",
        "Whether a setting differs from another member's.",
        ("setting",),
        registry=registry,
    )
    before: dict[str, str] = {}
    while True:
        found = members.compare()
        for setting in COMPARED.values():
            gauge.labels(setting).set(float(setting in found))
        if found != before:
            for message in {*found.values()} - {*before.values()}:
                logger.warning("%s", message)
            if members.refusal:
                logger.error("%s", members.refusal)
            await heartbeat.warn("; ".join([*found.values(), members.refusal]).removesuffix("; "))
        before = found
        await asyncio.sleep(HEARTBEAT_S / 2)
