"""Sends failed requests to the retry queue, if their endpoint wants failures tried again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from broker.base import Broker
from broker.delivery.outbox import Outbox
from broker.messages import Outcome
from broker.protocol.bundle import single
from broker.records.endpoint import Endpoint
from processors.model import FailedItem
from processors.outcomes import CONFIRMATIONS_PER_REQUEST

PATIENCE_S = 30.0


class RetryQueue:
    """Publishes failed requests to `retry.<queue>`.

    Once one is confirmed there, its delivery no longer waits for it: the retry brings its answer and its row.
    `on_rejected` gets each request that the retry queue did not confirm in time. If the connection was lost, such a
    request may be in the retry queue all the same; its client then gets two answers.
    """

    def __init__(
        self,
        broker: Broker,
        queue: str,
        endpoints: Mapping[str, Endpoint],
        *,
        on_rejected: Callable[[FailedItem], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._queue = broker.channels.retry(queue)
        self._endpoints = endpoints
        self._on_rejected = on_rejected
        self._outbox: Outbox[FailedItem] = Outbox(
            broker, self._settled, patience_s=patience_s, patience_full_s=patience_s
        )

    def accept(self, failed: FailedItem) -> bool:
        """Send a failed request with one more attempt. Returns False if its endpoint does not want it retried."""
        request = failed.item.request
        declared = self._endpoints.get(request.route.endpoint)
        attempts = request.attempts + 1
        if declared is None or failed.error.status not in declared.retry.on or attempts >= declared.retry.attempts:
            return False
        again = request._replace(attempts=attempts)
        self._outbox.put_message(single(self._queue, again, delay_s=declared.retry.pause_s(attempts)), failed)
        return True

    async def drain(self) -> None:
        """Wait until the outcome of every publish is known."""
        await self._outbox.drain()

    def _settled(self, failures: Sequence[FailedItem], outcome: Outcome) -> None:
        for failed in failures:
            if not outcome.safe:
                self._on_rejected(failed)
                continue
            for _ in range(CONFIRMATIONS_PER_REQUEST):
                failed.item.ack.settle()
