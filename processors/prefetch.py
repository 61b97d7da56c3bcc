"""The number of broker messages that a pipeline holds, which follows the mean number of requests per message."""

from __future__ import annotations

from collections.abc import Sequence

from broker.base import Consumer
from broker.messages import Delivery

BATCHES_HELD = 8  # four that wait or run, four whose answers and rows are not confirmed yet
FILL_WEIGHT = 0.1
SHRINK_AT = 8


class PrefetchWindow:
    """Sizes a consumer so that it holds about eight batches of requests, however full its messages are.

    `fill` is the mean number of requests per message. It rises at once, because too much is already held then, and
    falls slowly. The consumer shrinks only when far too much is held: shrinking makes adapters give messages back that
    are already on their way.
    """

    def __init__(self, max_rows: int) -> None:
        self._requests_limit = BATCHES_HELD * max_rows
        # Each message may be a whole batch until one has been seen. Holding too few costs a moment, too many a long
        # retry queue after a crash.
        self.fill = float(max_rows)
        self._requested = 0

    @property
    def size(self) -> int:
        """How many broker messages may be held."""
        return max(BATCHES_HELD, round(self._requests_limit / self.fill))

    def start(self) -> None:
        """Note that a consumer has been made with the current size."""
        self._requested = self.size

    async def take(self, consumer: Consumer) -> Sequence[Delivery]:
        """Take deliveries and adapt the size to their fill; an empty result means that the consumer has stopped."""
        deliveries = await consumer.take(self.size)
        if deliveries:
            self._observe(deliveries, consumer)
        return deliveries

    def _observe(self, deliveries: Sequence[Delivery], consumer: Consumer) -> None:
        mean = sum([max(1, delivery.message.count) for delivery in deliveries]) / len(deliveries)
        self.fill = max(mean, self.fill + FILL_WEIGHT * (mean - self.fill))
        if not self._requested / SHRINK_AT < self.size < self._requested * 2:
            self._requested = self.size
            consumer.resize(self._requested)
