"""How a request ends towards its client: an answer in a bundle of ours, or a plain message any client can read."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache

from broker.answers import plain
from broker.base import Broker
from broker.channels import Channels
from broker.header import Form, Reply, Request, Status, pack_answer
from broker.messages import Outcome
from broker.outbox import Outbox
from broker.settling import Hold

log = logging.getLogger(__name__)

Result = tuple[Request, tuple[bytes, int | None], Hold, tuple[int, int, int]]
"""A request, its body with the length of the JSON in it, its hold, and its times in queue, batcher and model (us)."""

ANSWERS_PER_BUNDLE = 256
PATIENCE_S = 30.0
WARN_EVERY_S = 30.0


class Answering:
    """Sends answers, each with the hold that waits for it.

    An answer whose queue is missing, or stays full, is dropped and counted: it holds up nobody else. `dropped` hears
    why and how many; the log says it at most every `WARN_EVERY_S`.
    """

    def __init__(
        self, broker: Broker, *, dropped: Callable[[str, int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._channels: Channels = broker.channels
        self._dropped = dropped
        self._clock = clock
        self._unsaid = 0
        self._warned_s = -WARN_EVERY_S
        self.outbox: Outbox[Hold] = Outbox(broker, self._settled, patience_s=PATIENCE_S, patience_full_s=PATIENCE_S)

    def answer_one(self, request: Request, status: Status, body: bytes, hold: Hold, queued_us: int) -> None:
        """Send one answer that is no result."""
        self.answer([(request, (body, None), hold, (queued_us, 0, 0))], status)

    def answer(self, results: Sequence[Result], status: Status) -> None:
        """Send many answers of the same status."""
        bundled: defaultdict[str, list[tuple[bytes, bytes | memoryview, Hold]]] = defaultdict(list)
        for request, (body, json_length), hold, times in results:
            route = request.route
            if route.reply is Reply.GATEWAY:
                ticket = pack_answer(request.uid, status, _arm(route.arm), route.version, json_length, times, len(body))
                bundled[route.reply_to].append((ticket, body, hold))
            elif route.reply is Reply.NOWHERE:
                hold.settle()
            else:
                queue = route.reply_to if route.reply is Reply.CLIENT else self._channels.results(route.endpoint)
                self.outbox.put_message(plain(queue, request, status, body, json_length), hold)
        for queue, items in bundled.items():
            self.outbox.put_all(queue, Form.ANSWERS, b"", items, limit=ANSWERS_PER_BUNDLE)

    def _settled(self, holds: Sequence[Hold], outcome: Outcome) -> None:
        if not outcome.safe:
            self._drop(str(outcome), len(holds))
        for hold in holds:
            hold.settle()

    def _drop(self, reason: str, number: int) -> None:
        self._dropped(reason, number)
        self._unsaid += number
        now = self._clock()
        if now - self._warned_s >= WARN_EVERY_S:
            log.warning("answers dropped: %d, the last for this reason: %s", self._unsaid, reason)
            self._unsaid, self._warned_s = 0, now


@lru_cache(maxsize=1024)
def _arm(name: str) -> bytes:
    return name.encode()
