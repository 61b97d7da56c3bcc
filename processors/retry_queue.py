"""The way of a failed request into the retry lane, if its endpoint wants failures tried again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from broker.base import Broker
from broker.delivery.outbox import Outbox
from broker.messages import Outcome
from broker.protocol.bundle import single
from broker.records.endpoint import Endpoint
from processors.model import FailedItem

PATIENCE_S = 30.0


class RetryQueue:
    """Sends failed requests to `retry.<queue>`; hears of each what became of it.

    `went` gets those that are safe there: they are answered by whoever takes them. `stayed` gets those that the lane
    did not take in time. A lost connection can make one of them both; its client then hears of it twice.
    """

    def __init__(
        self,
        broker: Broker,
        queue: str,
        endpoints: Mapping[str, Endpoint],
        *,
        went: Callable[[FailedItem], None],
        stayed: Callable[[FailedItem], None],
    ) -> None:
        self._lane = broker.channels.retry(queue)
        self._endpoints = endpoints
        self._went = went
        self._stayed = stayed
        self._outbox: Outbox[FailedItem] = Outbox(
            broker, self._settled, patience_s=PATIENCE_S, patience_full_s=PATIENCE_S
        )

    def takes(self, part: FailedItem) -> bool:
        """Send a failed request with one attempt more, if its endpoint wants that; tell whether it does."""
        request = part.item.request
        declared = self._endpoints.get(request.route.endpoint)
        attempts = request.attempts + 1
        if declared is None or part.error.status not in declared.retry.on or attempts >= declared.retry.attempts:
            return False
        again = request._replace(attempts=attempts)
        self._outbox.put_message(single(self._lane, again, delay_s=declared.retry.pause_s(attempts)), part)
        return True

    async def drain(self) -> None:
        """Wait until it is known of each what became of it."""
        await self._outbox.drain()

    def _settled(self, parts: Sequence[FailedItem], outcome: Outcome) -> None:
        heard = self._went if outcome.safe else self._stayed
        for part in parts:
            heard(part)
