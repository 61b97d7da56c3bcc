"""`interleave`: several arms rank the same items, the client sees one list of all, and clicks say who is better."""

from __future__ import annotations

from dataclasses import dataclass

from router.policies.snapshot import WeightSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Interleaving:
    """`rankers` are places among the endpoint's `arms`, rising. Each answers with a ranking in its output `output`.

    `output` empty: the model's only one. A ranker that has not answered `wait_s` after the request was accepted is left
    out. Feedback named `reward` with an `item` is a click. The experiment is over when a ranker is proven the best at
    `alpha`, or after `max_ticks`; a snapshot with all weight on one arm says so, and that arm then answers alone.
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
        """See the protocol."""
        return "interleave"

    def first(self) -> WeightSnapshot:
        """See the protocol."""
        return WeightSnapshot(0, tuple(1.0 if arm in self.rankers else 0.0 for arm in range(self.arms)))
