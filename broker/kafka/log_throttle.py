"""Limits aiokafka's log lines: it logs an unreachable broker thousands of times a minute."""

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
    """Passes one log record in `EVERY_S` seconds for each line of code that logs."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        line, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._last.get(line, -EVERY_S) < EVERY_S:
            return False
        self._last[line] = now
        return True


def quieten() -> None:
    """Install the throttle on aiokafka's loggers, and raise their level to WARNING."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        if not any(isinstance(each, LogThrottle) for each in logger.filters):
            logger.addFilter(LogThrottle())
