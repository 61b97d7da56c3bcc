"""aiokafka says thousands of times a minute that nobody answers; once every few seconds is enough."""

from __future__ import annotations

import logging
import time

EVERY_S = 30.0
_LOGGERS = (
    "aiokafka",
    "aiokafka.client",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.consumer.subscription_state",
    "aiokafka.coordinator.assignors.sticky.sticky_assignor",
    "aiokafka.producer.sender",
)


class LogThrottle(logging.Filter):
    """Lets one record through for each place in the code that logs, every `EVERY_S`."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is shown."""
        place, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._last.get(place, -EVERY_S) < EVERY_S:
            return False
        self._last[place] = now
        return True


def quieten() -> None:
    """Put the filter where aiokafka's loggers are, and leave out what it tells of every step."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        if not any(isinstance(each, LogThrottle) for each in logger.filters):
            logger.addFilter(LogThrottle())
