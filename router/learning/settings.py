"""The settings of a learner."""

from __future__ import annotations

from dataclasses import dataclass

REPEAT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """How a learner runs. `tick_s` is the length of a tick, a second in production; demos and tests shorten it."""

    instance: str
    tick_s: float = 1.0
    metrics_port: int = 0

    @property
    def repeat_s(self) -> float:
        """The pause after which an unchanged snapshot is published again: ten ticks, at most ten seconds."""
        return REPEAT_S * min(1.0, self.tick_s)
