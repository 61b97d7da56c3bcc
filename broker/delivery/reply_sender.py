"""How a request ends towards its client: an answer in a bundle of ours, or a plain message any client can read."""

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

log = logging.getLogger(__name__)

Result = tuple[Request, tuple[bytes, int | None], PendingAck, tuple[int, int, int]]
"""A request, its body with the length of the JSON in it, its hold, and its times in queue, batcher and model (us)."""

ANSWERS_PER_BUNDLE = 256
PATIENCE_S = 30.0
WARN_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class _Plain:
    """A plain answer on its way: what is needed to say in its place that the client's queue does not take it."""

    queue: str
    request: Request
    size: int
    hold: PendingAck


class ReplySender:
    """Sends answers, each with the hold that waits for it.

    An answer that is too large for a message, or for its client's queue, ends `failed` with its size. One whose queue
    is missing, or stays full, is dropped and counted, so that other answers go on. `dropped` is called with the reason
    and the number; a warning is logged at most every `WARN_EVERY_S`.
    """

    def __init__(
        self, broker: Broker, *, dropped: Callable[[str, int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._channels: Channels = broker.channels
        self._dropped = dropped
        self._clock = clock
        self._unsaid = 0
        self._warned_s = -WARN_EVERY_S
        self.outbox: Outbox[PendingAck | _Plain] = Outbox(
            broker, self._settled, patience_s=PATIENCE_S, patience_full_s=PATIENCE_S
        )

    def answer_one(self, request: Request, status: Status, body: bytes, hold: PendingAck, queued_us: int) -> None:
        """Send one answer that is no result."""
        self.answer([(request, (body, None), hold, (queued_us, 0, 0))], status)

    def answer(self, results: Sequence[Result], status: Status) -> None:
        """Send many answers of the same status."""
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
            self._refuse(token)  # a plain answer stays by itself
            return
        if not outcome.safe:
            self._drop(str(outcome), len(tokens))
        for token in tokens:
            (token.hold if isinstance(token, _Plain) else token).settle()

    def _refuse(self, answer: _Plain) -> None:
        """Send the error in place of an answer that its queue refused: Kafka's topics have limits of their own."""
        error = error_body(f"the answer has {answer.size} bytes, which is more than {answer.queue} takes")
        self.outbox.put_message(plain(answer.queue, answer.request, Status.FAILED, error, None), answer.hold)

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
