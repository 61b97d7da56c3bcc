"""`interleave`: several arms rank the same items, and the client sees one list merged from all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.policies.policy import Companions, ListMerging, Policy
from router.policies.snapshot import WeightSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Interleaving(Policy):
    """`rankers` are places among the endpoint's `arms`, rising. Each answers with a ranking in its output `output`.

    `output` empty: the model's only one. A ranker that has not answered `wait_s` after the request was accepted is left
    out. Feedback named `reward` with an `item` is a click. The experiment is over when a ranker is proven the best at
    `alpha`, or after `max_ticks`; its snapshot has all weight on one arm, which then answers alone.
    """

    arms: int
    rankers: tuple[int, ...]
    method: str = "team_draft"
    length: int = 10
    output: str = ""
    reward: str = ""
    wait_s: float = 1.0
    alpha: float = 0.05
    max_ticks: int | None = None
    sticky: bool = False

    @property
    def name(self) -> str:
        return "interleave"

    @property
    def learns(self) -> bool:
        return True

    @property
    def merging(self) -> ListMerging:
        return ListMerging(
            rankers=self.rankers, method=self.method, length=self.length, output=self.output, wait_s=self.wait_s
        )

    def first(self) -> WeightSnapshot:
        return WeightSnapshot(0, tuple(1.0 if arm in self.rankers else 0.0 for arm in range(self.arms)))

    def companions(self, number: Callable[[bytes], float]) -> Companions:
        del number
        return _other_rankers


def _other_rankers(_: bytes, __: int, arm: int, probabilities: Sequence[float]) -> tuple[int, ...]:
    """Return the other rankers that have weight and are ready."""
    return tuple([other for other, probability in enumerate(probabilities) if probability > 0.0 and other != arm])
