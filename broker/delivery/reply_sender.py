"""Sends answers: in bundles to gateways, and as plain messages to clients of the queue."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from broker.base import Broker
from broker.channels import Channels
from broker.delivery.ack_tracker import PendingAck
from broker.delivery.outbox import Outbox
from broker.messages import Outcome, Reason
from broker.protocol.answers import ANSWER_LIMIT_BYTES, error_body, plain, too_large
from broker.protocol.header import BodyForm, ReplyTo, Request, Status, pack_answer

logger = logging.getLogger(__name__)

Result = tuple[Request, tuple[bytes, int | None], PendingAck, tuple[int, int, int]]
"""A request, its body with the length of the JSON in it, its pending ack, and its us in queue, batcher and model."""

ANSWERS_PER_BUNDLE = 256
PATIENCE_S = 30.0
WARN_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class _Plain:
    """A plain answer in flight, with the data for an error answer if the client's queue refuses it as too large."""

    queue: str
    request: Request
    size: int
    hold: PendingAck


class ReplySender:
    """Sends answers, each with the pending ack that waits for it.

    An answer that is too large for a message, or for its client's queue, is replaced by a `failed` one with its size.
    An answer whose queue does not exist, or stays full, is dropped and counted, so that other answers continue.
    `dropped` is called with the reason and the number; a warning is logged at most every `WARN_EVERY_S`.
    """

    def __init__(
        self, broker: Broker, *, dropped: Callable[[str, int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._channels: Channels = broker.channels
        self._dropped = dropped
        self._clock = clock
        self._unreported = 0
        self._warned_s = -WARN_EVERY_S
        self.outbox: Outbox[PendingAck | _Plain] = Outbox(
            broker, self._settled, patience_s=PATIENCE_S, patience_full_s=PATIENCE_S
        )

    def answer_one(self, request: Request, status: Status, body: bytes, hold: PendingAck, queued_us: int) -> None:
        """Send one answer that has no result, such as an error."""
        self.answer([(request, (body, None), hold, (queued_us, 0, 0))], status)

    def answer(self, results: Sequence[Result], status: Status) -> None:
        """Send many answers with the same status."""
        bundled: defaultdict[str, list[tuple[bytes, bytes | memoryview, PendingAck | _Plain]]] = defaultdict(list)
        for request, (body, json_length), hold, times in results:
            route = request.route
            if len(body) > ANSWER_LIMIT_BYTES:
                self.answer_one(request, Status.FAILED, error_body(str(too_large(len(body)))), hold, times[0])
            elif route.reply is ReplyTo.GATEWAY:
                ticket = pack_answer(request.uid, status, _arm(route.arm), route.version, json_length, times, len(body))
                bundled[route.reply_to].append((ticket, body, hold))
            elif route.reply is ReplyTo.NOWHERE:
                hold.settle()
            else:
                queue = route.reply_to if route.reply is ReplyTo.CLIENT else self._channels.results(route.endpoint)
                token = _Plain(queue, request, len(body), hold)
                self.outbox.put_message(plain(queue, request, status, body, json_length), token)
        for queue, items in bundled.items():
            self.outbox.put_all(queue, BodyForm.ANSWERS, b"", items, limit=ANSWERS_PER_BUNDLE)

    def _settled(self, tokens: Sequence[PendingAck | _Plain], outcome: Outcome) -> None:
        if outcome.reason is Reason.TOO_LARGE and isinstance(token := tokens[0], _Plain):
            self._refuse(token)  # a plain answer is never bundled
            return
        if not outcome.safe:
            self._drop(str(outcome), len(tokens))
        for token in tokens:
            (token.hold if isinstance(token, _Plain) else token).settle()

    def _refuse(self, answer: _Plain) -> None:
        """Send an error in place of an answer that its queue refused: a Kafka topic may have a lower size limit."""
        error = error_body(f"the answer has {answer.size} bytes, which is more than {answer.queue} takes")
        self.outbox.put_message(plain(answer.queue, answer.request, Status.FAILED, error, None), answer.hold)

    def _drop(self, reason: str, number: int) -> None:
        self._dropped(reason, number)
        self._unreported += number
        now = self._clock()
        if now - self._warned_s >= WARN_EVERY_S:
            logger.warning("%d answers were dropped, the last one because: %s", self._unreported, reason)
            self._unreported, self._warned_s = 0, now


@lru_cache(maxsize=1024)
def _arm(name: str) -> bytes:
    return name.encode()
