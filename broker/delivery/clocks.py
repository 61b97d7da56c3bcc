"""One time for all machines of an installation, although their clocks differ.

Deadlines, and the times in rows, are absolute times. Each process compares the times in the others' heartbeats with its
own clock. `now_us` is the median time: at most half of the machines are behind it, and at most half are ahead of it.
All processes compute the same time, because they read the same heartbeats.

A heartbeat arrives some time after it was written, so a machine seems to be behind by that delay. Therefore only
the least delayed of its recent heartbeats is used, and differences below `ALLOWED_S` are ignored. Heartbeats that were
written over a longer time than they arrived in are old ones, which are read at the start: they measure nothing.

When a machine with a wrong clock leaves or joins, the time changes, in all processes within seconds. Deadlines from
before the change are compared with the former times for `ids.GRACE_S`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from broker.messages import Record
from broker.protocol import ids
from broker.records.status import host_name, read_status

logger = logging.getLogger(__name__)

ALLOWED_S = 2.0
BOUND_S = 7200.0  # a larger difference is reported and not corrected
WINDOW_S = 15.0
SPAN_S = 1.0  # a clock counts as measured once its heartbeats span this time
SAMPLE_EVERY_S = 0.25  # of one machine, however many processes it has
SAMPLES = 64
MEASURED_WITHIN_S = 5.0  # after the first heartbeat; a machine that runs sends two in that time
MEASURED_EVERY_S = 0.1


class _Sample(NamedTuple):
    """A heartbeat: when it arrived (monotonic), when it was written by its own clock, and how far that is ahead."""

    arrived_s: float
    written_s: float
    ahead_s: float


def _add(samples: deque[_Sample], new: _Sample) -> None:
    """Append a sample; of several within `SAMPLE_EVERY_S` the least delayed one stays."""
    if not samples or new.arrived_s - samples[-1].arrived_s >= SAMPLE_EVERY_S:
        samples.append(new)
    elif new.ahead_s > samples[-1].ahead_s:
        samples[-1] = new._replace(arrived_s=samples[-1].arrived_s)


class Clocks:
    """The differences between the clocks of all machines, measured by their heartbeats."""

    def __init__(
        self,
        host: str,
        *,
        wall_us: Callable[[], int] = ids.wall_us,
        clock: Callable[[], float] = time.monotonic,
        shift: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`shift` is called with the new correction of this machine's clock, in microseconds, whenever it changes."""
        self._host = host
        self._wall_us = wall_us
        self._clock = clock
        self._shift = shift
        self._samples: dict[str, deque[_Sample]] = {}  # by host
        self._began_s = math.inf  # the time of the first heartbeat of another machine
        self._reported: set[str] = set()
        self.offset_s = 0.0
        """The correction of this machine's clock, in seconds, to be added to it."""

    def fold(self, record: Record) -> None:
        """Process a record of the `status` log."""
        announcement = read_status(record)
        if announcement is not None and announcement.host:
            self.observe(announcement.host, announcement.at_us)

    def observe(self, host: str, at_us: int) -> None:
        """Process a heartbeat of `host` that was written at `at_us` by its clock."""
        if host != self._host:
            now_s = self._clock()
            self._began_s = min(self._began_s, now_s)
            sample = _Sample(now_s, at_us / 1e6, (at_us - self._wall_us()) / 1e6)
            _add(self._samples.setdefault(host, deque(maxlen=SAMPLES)), sample)
        self._settle()

    def age_s(self, host: str, at_us: int) -> float:
        """Return the seconds since `at_us` on a machine's clock, corrected by its measured difference."""
        if not host:
            return 0.0
        ahead_s = self._ahead().get(host, 0.0)
        return max(0.0, (self._wall_us() - at_us) / 1e6 + ahead_s)

    @property
    def is_measuring(self) -> bool:
        """True while a clock is not measured yet, but only for `MEASURED_WITHIN_S` after the first heartbeat."""
        if self._clock() - self._began_s > MEASURED_WITHIN_S:
            return False
        known = self._ahead()
        return any(host not in known for host in self._samples)

    async def measured(self) -> None:
        """Wait until the clocks of the machines that sent heartbeats are measured, at most `MEASURED_WITHIN_S`."""
        while self.is_measuring:  # noqa: ASYNC110 - time alone also ends it, without an event
            await asyncio.sleep(MEASURED_EVERY_S)

    def differences(self) -> Mapping[str, float]:
        """Return the seconds by which each machine's clock, this one included, is ahead of the installation's time."""
        return {host: ahead_s - self.offset_s for host, ahead_s in {**self._ahead(), self._host: 0.0}.items()}

    @property
    def own_difference_s(self) -> float:
        """The seconds by which this machine's clock is ahead of the installation's time."""
        return self.differences()[self._host]

    def troubles(self) -> list[str]:
        """Return a text for each machine whose clock is wrong."""
        return [_describe(host, off_s) for host, off_s in self.differences().items() if abs(off_s) > ALLOWED_S]

    def own_troubles(self) -> list[str]:
        """Return the text about this machine's clock, if it is wrong."""
        off_s = self.own_difference_s
        return [_describe(self._host, off_s)] if abs(off_s) > ALLOWED_S else []

    @property
    def is_lost(self) -> bool:
        """True if most other machines' clocks differ too much from this one's to be corrected."""
        ahead = self._ahead()
        far = [host for host, ahead_s in ahead.items() if abs(ahead_s) > BOUND_S]
        return len(far) > len(ahead) / 2 and len(far) > 1

    def _settle(self) -> None:
        """Compute the median time of the machines that send heartbeats now."""
        near = sorted([0.0, *[ahead_s for ahead_s in self._ahead().values() if abs(ahead_s) <= BOUND_S]])
        middle_s = near[(len(near) - 1) // 2]
        offset_s = middle_s if abs(middle_s) > ALLOWED_S else 0.0
        if abs(offset_s - self.offset_s) > ALLOWED_S / 2:
            self.offset_s = offset_s
            self._shift(int(offset_s * 1e6))
        self._log_changes()

    def _ahead(self) -> dict[str, float]:
        """Return the seconds by which each other machine with recent heartbeats is ahead of this one."""
        since = self._clock() - WINDOW_S
        found = {}
        for host, samples in list(self._samples.items()):
            while samples and samples[0].arrived_s < since:
                samples.popleft()
            if not samples:
                del self._samples[host]
                continue
            arrived_s = samples[-1].arrived_s - samples[0].arrived_s
            written_s = samples[-1].written_s - samples[0].written_s
            if arrived_s >= SPAN_S and written_s <= 2 * arrived_s + SPAN_S:
                found[host] = max(sample.ahead_s for sample in samples)
        return found

    def _log_changes(self) -> None:
        """Log each wrong clock once, and once more when it is right again."""
        off = {host for host, off_s in self.differences().items() if abs(off_s) > ALLOWED_S}
        for host in off - self._reported:
            logger.warning("%s", _describe(host, self.differences()[host]))
        for host in self._reported - off:
            logger.warning("the clock of machine %s agrees with the others again", host)
        self._reported = off


def _describe(host: str, off_s: float) -> str:
    way = "ahead of" if off_s > 0 else "behind"
    effect = "Millrace corrects for it" if abs(off_s) <= BOUND_S else "too much for Millrace to correct"
    return f"the clock of machine {host} is {abs(off_s):.0f} s {way} the others ({effect}): set it right"


CLOCKS = Clocks(host_name(), shift=ids.shift_clock)
"""The clocks as measured by this process: one object for the whole process, like the system's clock."""
