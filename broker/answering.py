"""How a request ends towards its client: an answer in a bundle of ours, or a plain message any client can read."""

from __future__ import annotations

from collections.abc import Sequence

from broker.answers import plain
from broker.base import Broker
from broker.channels import Channels
from broker.header import Answer, Form, Reply, Request, Status, pack_answer
from broker.messages import Outcome
from broker.outbox import Outbox
from broker.settling import Hold

ANSWERS_PER_BUNDLE = 256
PATIENCE_S = 30.0


class Answering:
    """Sends answers, each with the hold that waits for it.

    An answer whose queue is missing, or stays full, is dropped and counted: it holds up nobody else.
    """

    def __init__(self, broker: Broker) -> None:
        self._channels: Channels = broker.channels
        self.dropped = 0
        self.outbox: Outbox[Hold] = Outbox(broker, self._settled, patience_s=PATIENCE_S, patience_full_s=PATIENCE_S)

    def answer(
        self, request: Request, status: Status, body: bytes, json_length: int | None, hold: Hold, times: tuple[int, int, int]
    ) -> None:
        """Send one answer; `times` are the microseconds in the queue, in the batcher and in the model."""
        route = request.route
        if route.reply is Reply.GATEWAY:
            answer = Answer(request.uid, status, route.arm, route.version, json_length, *times, body)
            self.outbox.put(
                route.reply_to, Form.ANSWERS, b"", pack_answer(answer), body, hold, limit=ANSWERS_PER_BUNDLE
            )
        elif route.reply is Reply.NOWHERE:
            hold.settle()
        else:
            queue = route.reply_to if route.reply is Reply.CLIENT else self._channels.results(route.endpoint)
            self.outbox.put_message(plain(queue, request, status, body, json_length), hold)

    def _settled(self, holds: Sequence[Hold], outcome: Outcome) -> None:
        if not outcome.safe:
            self.dropped += len(holds)
        for hold in holds:
            hold.settle()
