"""How many requests a broker message of a queue holds, as this process has seen it."""

from __future__ import annotations

from collections.abc import Iterable

from broker.messages import Message

_WEIGHT = 0.05
_QUEUES_KEPT = 1024


class FillRatio:
    """A mean for each queue that leans to what came last; 1 where nothing is known."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def observe(self, messages: Iterable[Message]) -> None:
        """Learn from messages that were published or taken."""
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
