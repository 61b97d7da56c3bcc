"""One time for all machines of an installation, although their clocks differ.

Deadlines, and the times in rows, travel as absolute times. Each process compares the times in the others' heartbeats
with its own clock, and `now_us` is the time of the machine in the middle: half of the machines are not behind it, and
half are not ahead of it. All processes find the same one, because they read the same heartbeats.

A heartbeat arrives some time after it was written, so a machine seems to be behind by that much; the least delayed of
its last heartbeats counts, and differences below `ALLOWED_S` are left alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping

from broker.messages import Record
from broker.protocol import ids
from broker.records.status import host_name, read_status

log = logging.getLogger(__name__)

ALLOWED_S = 2.0
BOUND_S = 7200.0  # a clock that is off by more is no clock: it is named, and not allowed for
WINDOW_S = 15.0
SPAN_S = 1.0  # heartbeats that are read in one go, at the start, tell nothing
SAMPLES = 32
MEASURED_WITHIN_S = 5.0  # after the first word of others: a machine that lives is heard twice in that time
MEASURED_EVERY_S = 0.1
KEPT_S = 3600.0


class Clocks:
    """The clocks of the other machines as their heartbeats tell them, and what this machine's lacks."""

    def __init__(
        self,
        host: str,
        *,
        wall_us: Callable[[], int] = ids.wall_us,
        clock: Callable[[], float] = time.monotonic,
        shift: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`shift` is called with the new difference, in microseconds, whenever it changes."""
        self._host = host
        self._wall_us = wall_us
        self._clock = clock
        self._shift = shift
        self._heard: dict[str, deque[tuple[float, float]]] = {}  # by host: when, and by how much it is ahead of us
        self._kept: dict[str, tuple[float, float]] = {}  # what was measured last, of machines that left, too
        self._began_s = math.inf  # when another machine was heard first
        self._named: set[str] = set()
        self.offset_s = 0.0
        """What has to be added to this machine's clock."""

    def fold(self, record: Record) -> None:
        """Take in a record of the `status` log."""
        said = read_status(record)
        if said is not None and said.host:
            self.hear(said.host, said.at_us)

    def hear(self, host: str, at_us: int) -> None:
        """Take in a heartbeat."""
        if host == self._host:
            return
        self._began_s = min(self._began_s, self._clock())
        ahead_s = (at_us - self._wall_us()) / 1e6
        self._heard.setdefault(host, deque(maxlen=SAMPLES)).append((self._clock(), ahead_s))
        self._settle()

    def age_s(self, host: str, at_us: int) -> float:
        """Return how many seconds ago a machine said something, by its clock as far as that was measured."""
        if not host:
            return 0.0
        ahead_s = self._ahead().get(host, 0.0)
        return max(0.0, (self._wall_us() - at_us) / 1e6 + ahead_s)

    @property
    def is_measuring(self) -> bool:
        """Tell whether other machines have just been heard for the first time, and one's clock is not known yet."""
        if self._clock() - self._began_s > MEASURED_WITHIN_S:
            return False
        known = self._ahead()
        return any(host not in known for host in self._heard)

    async def measured(self) -> None:
        """Return once the clocks of the machines that were heard just now are known: soon, also if they are gone."""
        while self.is_measuring:  # noqa: ASYNC110 - it ends by time passing, too
            await asyncio.sleep(MEASURED_EVERY_S)

    def differences(self) -> Mapping[str, float]:
        """Return by how many seconds each machine's clock is ahead of the installation's time, ours included."""
        return {host: ahead_s - self.offset_s for host, ahead_s in {**self._ahead(), self._host: 0.0}.items()}

    @property
    def own_difference_s(self) -> float:
        """By how much this machine's clock is ahead of the installation's time."""
        return self.differences()[self._host]

    def troubles(self) -> list[str]:
        """Return which machines' clocks are off, in words."""
        return [_in_words(host, off_s) for host, off_s in self.differences().items() if abs(off_s) > ALLOWED_S]

    def own_troubles(self) -> list[str]:
        """Return what is wrong with this machine's clock, in words."""
        off_s = self.own_difference_s
        return [_in_words(self._host, off_s)] if abs(off_s) > ALLOWED_S else []

    @property
    def is_lost(self) -> bool:
        """Tell whether most other machines are too far away in time for this one to allow for it."""
        ahead = self._ahead()
        far = [host for host, ahead_s in ahead.items() if abs(ahead_s) > BOUND_S]
        return len(far) > len(ahead) / 2 and len(far) > 1

    def _settle(self) -> None:
        """Find the time in the middle. A machine that leaves takes nothing with it: the time would jump for all."""
        now = self._clock()
        self._kept |= {host: (now, ahead_s) for host, ahead_s in self._ahead().items()}
        self._kept = {host: known for host, known in self._kept.items() if known[0] >= now - KEPT_S}
        near = sorted([0.0, *[ahead_s for _, ahead_s in self._kept.values() if abs(ahead_s) <= BOUND_S]])
        middle_s = near[(len(near) - 1) // 2]
        offset_s = middle_s if abs(middle_s) > ALLOWED_S else 0.0
        if abs(offset_s - self.offset_s) > ALLOWED_S / 2:
            self.offset_s = offset_s
            self._shift(int(offset_s * 1e6))
        self._say()

    def _ahead(self) -> dict[str, float]:
        """Return by how many seconds each other machine that is heard is ahead of this one."""
        since = self._clock() - WINDOW_S
        found = {}
        for host, samples in list(self._heard.items()):
            while samples and samples[0][0] < since:
                samples.popleft()
            if not samples:
                del self._heard[host]
            elif samples[-1][0] - samples[0][0] >= SPAN_S:
                found[host] = max(ahead_s for _, ahead_s in samples)
        return found

    def _say(self) -> None:
        """Log each machine whose clock is off once, and again when it is right."""
        off = {host for host, off_s in self.differences().items() if abs(off_s) > ALLOWED_S}
        for host in off - self._named:
            log.warning("%s", _in_words(host, self.differences()[host]))
        for host in self._named - off:
            log.warning("the clock of machine %s agrees with the others again", host)
        self._named = off


def _in_words(host: str, off_s: float) -> str:
    way = "ahead of" if off_s > 0 else "behind"
    what = "it is allowed for" if abs(off_s) <= BOUND_S else "too far to be allowed for"
    return f"the clock of machine {host} is {abs(off_s):.0f} s {way} the others: {what}; set it right"


CLOCKS = Clocks(host_name(), shift=ids.shift_clock)
"""The clocks as this process sees them: like the system's clock, one for the whole process."""
