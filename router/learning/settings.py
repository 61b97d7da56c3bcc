"""The settings of a learner."""

from __future__ import annotations

from dataclasses import dataclass

REPEAT_S = 10.0
CHECK_S = 0.25  # after this pause a learner looks again for its leadership, and for declarations
READ_AT_ONCE = 1000
LEARNING_S = 1.0  # a snapshot with new figures for operators follows the last one after this pause


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """How a learner runs. `tick_s` is the length of a tick, a second in production; demos and tests shorten it."""

    instance: str
    tick_s: float = 1.0
    metrics_port: int = 0
    read_at_once: int = READ_AT_ONCE  # records of a log
    learning_s: float = LEARNING_S  # between snapshots of which only the figures differ
    check_s: float = CHECK_S

    @property
    def repeat_s(self) -> float:
        """The pause after which an unchanged snapshot is published again: ten ticks, at most ten seconds."""
        return REPEAT_S * min(1.0, self.tick_s)
