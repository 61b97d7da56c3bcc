"""A policy as routers draw from it, without numerical libraries beyond numpy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.declaration.features import Feature
from router.policies.snapshot import WeightSnapshot

if TYPE_CHECKING:
    from router.policies.weigher import Weigher

Companions = Callable[[bytes, int, int, Sequence[float]], tuple[int, ...]]
"""`companions(identity, mask, arm, probabilities)` returns the arms that get a copy of a request beside `arm`.

`mask` has a bit for each arm that is ready; `probabilities` are those that `arm` was drawn by.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListMerging:
    """How the lists of several rankers become one answer of at most `length` items.

    `rankers` are places among the endpoint's arms, rising. Each ranker answers with a list in its output `output`
    (empty: its only one). A ranker that has not answered `wait_s` after the request was accepted is left out.
    """

    rankers: tuple[int, ...]
    method: str
    length: int
    output: str
    wait_s: float


class Policy(ABC):
    """Gives the probability of each arm; the router draws, so that the logged probability is exact.

    Only `name` and `first` are required.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The policy's name in prediction rows."""

    @abstractmethod
    def first(self) -> WeightSnapshot:
        """Return snapshot 0, a pure function of the declaration."""

    @property
    def sticky(self) -> bool:
        """Whether requests with the same key get the same arm."""
        return False

    @property
    def learns(self) -> bool:
        """Whether a learner publishes snapshots for this policy."""
        return False

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features of a request that the weights depend on; empty for most policies."""
        return ()

    def weigher(self, snapshot: WeightSnapshot) -> Weigher | None:
        """Return the weigher of requests by their features; None if the snapshot's weights count for all requests.

        Raises ValueError if the models in the snapshot do not belong to this policy.
        """
        del snapshot
        return None

    def companions(self, number: Callable[[bytes], float]) -> Companions | None:
        """Return the rule for arms that get a copy of a request; None if there are never any.

        `number` draws a number in [0, 1) for an identity, always the same one, independent of the drawn arm.
        """
        del number
        return None

    @property
    def merging(self) -> ListMerging | None:
        """How the answers of all arms that get a request become one; None if the drawn arm answers alone."""
        return None

    @property
    def compared_output(self) -> str | None:
        """The output that is compared between a shadow and the serving arm (empty: the only one); None if none is."""
        return None
