"""Leadership of the learners: the newest claim on `declared` wins. Its offset is the term that snapshots carry."""

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

CLAIMS_LIMIT = 5
CLAIMS_WITHIN_S = 60.0


class Leadership:
    """One learner's view of the leadership: a fold of `declared` and `status`."""

    def __init__(self, broker: Broker, instance: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._instance = instance
        self._clock = clock
        self._newest: LeadershipClaim | None = None
        self._seen_s: dict[str, float] = {}  # by learner: when it announced itself last
        self._read = 0  # the offset up to which `declared` was read
        self._claimed_us: deque[int] = deque(maxlen=CLAIMS_LIMIT)
        self._changed = asyncio.Event()

    def fold_declared(self, record: Record) -> None:
        """Fold a record of the `declared` log."""
        claim = read_claim(record)
        if claim is not None:
            self._newest = claim
            self._claimed_us.append(claim.at_us)
        self._read = record.offset + 1
        self._changed.set()

    def forget_claims(self) -> None:
        """Forget all claims: the `declared` log was deleted, and a leader has to claim again on the new log."""
        self._newest, self._read = None, 0
        self._changed.set()

    def fold_status(self, record: Record) -> None:
        """Fold a record of the `status` log."""
        announcement = read_status(record)
        if announcement is None or announcement.part != "learner":
            return
        if announcement.state == "ready":
            self._seen_s[announcement.instance] = self._clock()
        else:
            self._seen_s.pop(announcement.instance, None)

    @property
    def term(self) -> int | None:
        """The term of this learner's claim; None if it has not claimed, or another learner has claimed since."""
        newest = self._newest
        return newest.term if newest is not None and newest.instance == self._instance else None

    @property
    def is_vacant(self) -> bool:
        """Whether the last leader has sent no heartbeat for `SILENT_AFTER_S`."""
        newest = self._newest
        if newest is None or newest.instance == self._instance:
            return True
        return self._clock() - self._seen_s.get(newest.instance, -SILENT_AFTER_S) >= SILENT_AFTER_S

    @property
    def trouble(self) -> str:
        """A message for operators if the leadership changes too often; empty otherwise. Each change pauses learning."""
        claims = list(self._claimed_us)
        if len(claims) < CLAIMS_LIMIT or now_us() - claims[0] > CLAIMS_WITHIN_S * 1e6:
            return ""
        return (
            f"the lead of the learners changed hands {CLAIMS_LIMIT} times within {CLAIMS_WITHIN_S:.0f} s, and learning"
            " pauses each time: are there two installations with one prefix, or clients that may write to `declared`?"
        )

    async def claim(self) -> int | None:
        """Claim leadership; return the term once the claim is read back, None if another learner claimed after it."""
        self._changed.clear()
        try:
            outcomes = await self._broker.append(self._broker.channels.declared, [write_claim(self._instance)])
        except TryAgain:
            return None
        if not outcomes[0].safe:
            return None
        await self._wait_until(lambda: self.term is not None)
        return self.term

    async def confirmed_term(self) -> int | None:
        """Return the term after reading all claims up to the present end of the log.

        A process that was suspended has missed claims. Returns None if another learner has claimed since, or if the
        broker does not answer in time.
        """
        try:
            end = await self._broker.end(self._broker.channels.declared)
        except TryAgain:
            return None
        return self.term if await self._wait_until(lambda: self._read >= end) else None

    async def _wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait for records that make `condition` true; return False if none come within `SILENT_AFTER_S`."""
        try:
            async with asyncio.timeout(SILENT_AFTER_S):
                while not condition():
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            return False
        return True
