"""`shadow`: one arm serves, and another one gets a sample of the same requests. The shadow never answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.policies.policy import Companions, Policy
from router.policies.snapshot import WeightSnapshot


@dataclass(frozen=True, slots=True)
class Shadow(Policy):
    """`serve` and `shadow` are places among the endpoint's `arms`; `sample` is the share of requests that go to both.

    `compare` names the output that is compared, empty: the only one.
    """

    arms: int
    serve: int
    shadow: int
    sample: float = 1.0
    compare: str = ""
    sticky: bool = False

    @property
    def name(self) -> str:
        return "shadow"

    @property
    def compared_output(self) -> str:
        return self.compare

    def first(self) -> WeightSnapshot:
        return WeightSnapshot(0, tuple(1.0 if arm == self.serve else 0.0 for arm in range(self.arms)))

    def companions(self, number: Callable[[bytes], float]) -> Companions:
        copied, shadow, sample = (self.shadow,), self.shadow, self.sample

        def companions(identity: bytes, mask: int, arm: int, _: Sequence[float]) -> tuple[int, ...]:
            if arm == shadow or not mask >> shadow & 1:  # requests must not pile up for a shadow that is away
                return ()
            return copied if sample >= 1.0 or number(identity) < sample else ()

        return companions
