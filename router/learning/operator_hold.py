"""The operator's hold on an experiment: its weights are frozen, or set by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class OperatorHold:
    """`is_paused`: no new weights are published. `weights`: those set by hand, empty if none are.

    `is_pending`: the last command is not part of any snapshot yet; the next tick publishes one.
    """

    is_paused: bool = False
    weights: tuple[float, ...] = ()
    is_pending: bool = False

    @property
    def is_frozen(self) -> bool:
        """Whether the last published weights stay, neither learnt nor set by hand."""
        return self.is_paused and not self.weights

    def pause(self) -> None:
        """Keep the weights as they are."""
        self.is_paused = True

    def set(self, weights: Mapping[str, float], arms: Sequence[str]) -> None:
        """Use these weights, normalised to sum to 1, for `arms`; ignored if they do not sum to a positive number."""
        chosen = [max(0.0, float(weights.get(arm, 0.0))) for arm in arms]
        if 0.0 < sum(chosen) < 1e300:
            self.is_paused, self.weights = True, tuple(weight / sum(chosen) for weight in chosen)

    def release(self) -> None:
        """Let the weights follow the experiment again."""
        self.is_paused, self.weights = False, ()
