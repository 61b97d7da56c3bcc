"""Who leads: whoever appended the newest claim to `declared`. A claim's offset is the term that its snapshots carry."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from broker.base import Broker
from broker.errors import TryAgain
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.routing import LeadershipClaim, read_claim, write_claim
from broker.records.status import SILENT_AFTER_S, read_status

PAUSE_S = 0.5
CLAIMS_LIMIT = 5
CLAIMS_WITHIN_S = 60.0


class Leadership:
    """One learner's view of it: a fold of `declared` and `status`."""

    def __init__(self, broker: Broker, instance: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._instance = instance
        self._clock = clock
        self._newest: LeadershipClaim | None = None
        self._heard: dict[str, float] = {}
        self._read = 0  # so much of `declared`
        self._claimed_us: deque[int] = deque(maxlen=CLAIMS_LIMIT)
        self._changed = asyncio.Event()

    def fold_declared(self, record: Record) -> None:
        """Take in a record of the `declared` log."""
        claim = read_claim(record)
        if claim is not None:
            self._newest = claim
            self._claimed_us.append(claim.at_us)
        self._read = record.offset + 1
        self._changed.set()

    def begin_anew(self) -> None:
        """Forget all claims: the log that they stood on is gone, and a leader has to claim on the next one."""
        self._newest, self._read = None, 0
        self._changed.set()

    def fold_status(self, record: Record) -> None:
        """Take in a record of the `status` log."""
        said = read_status(record)
        if said is None or said.part != "learner":
            return
        if said.state == "ready":
            self._heard[said.instance] = self._clock()
        else:
            self._heard.pop(said.instance, None)

    @property
    def term(self) -> int | None:
        """The term of this learner's own claim; None if somebody else has claimed since, or it never has."""
        newest = self._newest
        return newest.term if newest is not None and newest.instance == self._instance else None

    @property
    def is_vacant(self) -> bool:
        """Tell whether whoever led last has been silent for three heartbeats."""
        newest = self._newest
        if newest is None or newest.instance == self._instance:
            return True
        return self._clock() - self._heard.get(newest.instance, -SILENT_AFTER_S) >= SILENT_AFTER_S

    @property
    def trouble(self) -> str:
        """Return what is wrong with the lead: it changes hands all the time, and each time learning pauses."""
        claims = list(self._claimed_us)
        if len(claims) < CLAIMS_LIMIT or now_us() - claims[0] > CLAIMS_WITHIN_S * 1e6:
            return ""
        return (
            f"the lead of the learners changed hands {CLAIMS_LIMIT} times within {CLAIMS_WITHIN_S:.0f} s, and learning"
            " pauses each time: are there two installations with one prefix, or clients that may write to `declared`?"
        )

    async def claim(self) -> int | None:
        """Claim, and return the term once the claim was read back; None if somebody was faster."""
        self._changed.clear()
        try:
            outcomes = await self._broker.append(self._broker.channels.declared, [write_claim(self._instance)])
        except TryAgain:
            return None
        if not outcomes[0].safe:
            return None
        await self._until(lambda: self.term is not None)
        return self.term

    async def still(self) -> int | None:
        """Return the term once all claims that there are by now have been read: a process that was stopped has missed
        some. None if somebody else has claimed since, or nobody can tell.
        """
        try:
            end = await self._broker.end(self._broker.channels.declared)
        except TryAgain:
            return None
        return self.term if await self._until(lambda: self._read >= end) else None

    async def _until(self, what: Callable[[], bool]) -> bool:
        """Wait until what was read makes it so; tells whether it is."""
        try:
            async with asyncio.timeout(SILENT_AFTER_S):
                while not what():
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            return False
        return True
