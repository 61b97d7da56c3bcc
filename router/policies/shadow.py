"""`shadow`: one arm serves, another one gets a sample of the same requests. It never answers and is never credited."""

from __future__ import annotations

from dataclasses import dataclass

from router.policies.snapshot import WeightSnapshot


@dataclass(frozen=True, slots=True)
class Shadow:
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
        """See the protocol."""
        return "shadow"

    def first(self) -> WeightSnapshot:
        """See the protocol."""
        return WeightSnapshot(0, tuple(1.0 if arm == self.serve else 0.0 for arm in range(self.arms)))
