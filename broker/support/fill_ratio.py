"""The mean number of requests in a broker message of each queue, as this process has seen it."""

from __future__ import annotations

from collections.abc import Iterable

from broker.messages import Message

_WEIGHT = 0.05
_QUEUES_KEPT = 1024


class FillRatio:
    """An exponentially weighted mean for each queue; 1 for a queue without observations."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def observe(self, messages: Iterable[Message]) -> None:
        """Update the means from messages that were published or taken."""
        means = self._means
        for message in messages:
            mean = means.get(message.queue)
            if mean is not None:
                means[message.queue] = mean + _WEIGHT * (message.count - mean)
            elif message.count != 1 and len(means) < _QUEUES_KEPT:
                means[message.queue] = float(message.count)

    def requests(self, queue: str, messages: int) -> int:
        """Estimate the requests in `messages` messages of a queue."""
        return round(messages * self._means.get(queue, 1.0))
