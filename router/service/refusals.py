"""Ends requests of queue clients that are not forwarded: with an answer and a row."""

from __future__ import annotations

from collections.abc import Sequence

from broker.base import Broker
from broker.delivery.ack_tracker import AckTracker
from broker.delivery.prediction_log import PredictionLogWriter
from broker.delivery.reply_sender import ReplySender
from broker.errors import Cancelled, MillraceError
from broker.messages import Delivery
from broker.protocol.answers import error_body
from broker.protocol.header import BY_WORD, ReplyTo, Request, Route
from broker.records.events import EndedRequests
from router.service.intake import ADDRESS_CHARACTERS, where_to_answer
from router.service.shadows import ShadowSender
from router.service.taken_request import TakenRequest
from router.state.view import View

CONFIRMS = 2  # before the source of a refused request is acked: of its answer and of its row


class Refusals:
    """Refuses requests of one endpoint; a source is acked once its answer and its row are safe."""

    def __init__(
        self,
        broker: Broker,
        view: View,
        endpoint: str,
        *,
        acks: AckTracker,
        replies: ReplySender,
        rows: PredictionLogWriter,
        shadows: ShadowSender,
    ) -> None:
        self._channels = broker.channels
        self._view = view
        self._endpoint = endpoint
        self._acks = acks
        self._replies = replies
        self._rows = rows
        self._shadows = shadows

    def refuse(self, delivery: Delivery, uid: bytes, error: MillraceError, now: int) -> None:
        """End a message that could not be planned; `now` is its accept time in microseconds."""
        reply, reply_to = where_to_answer(delivery.message, self._channels)
        declared = self._view.declaration(self._endpoint)
        if reply is ReplyTo.RESULTS and declared is not None and declared.results == "none":
            reply = ReplyTo.NOWHERE
        route = Route(endpoint=self._endpoint, arm="", model="", version=0, reply=reply, reply_to=reply_to)
        correlation = (delivery.message.correlation_id or "")[:ADDRESS_CHARACTERS]
        self._end(Request(route=route, uid=uid, accepted_us=now, correlation=correlation), delivery, error)

    def end(self, items: Sequence[TakenRequest], error: MillraceError) -> None:
        """End planned requests, and drop their shadows."""
        for item in items:
            self._end(item.request, item.delivery, error)
        self._shadows.drop(
            [item.shadow for item in items if item.shadow], Cancelled("the request that it shadows was not forwarded")
        )

    def _end(self, request: Request, delivery: Delivery, error: MillraceError) -> None:
        pending = self._acks.hold(delivery, CONFIRMS)
        status = BY_WORD[error.status]
        self._replies.answer_one(request, status, error_body(str(error)), pending, 0)
        ended = EndedRequests.failed(request, error, taken_us=request.accepted_us)
        self._rows.add(self._endpoint, ended, holds=[pending])
