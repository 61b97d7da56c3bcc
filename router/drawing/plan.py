"""A plan: the arms that get one request, and the probability that the first of them was drawn with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from broker.errors import NotFound
from broker.records.endpoint import Endpoint


class Leg(NamedTuple):
    """One arm that gets the request. Leg 0 answers; for merged lists all legs do."""

    arm: str
    model: str
    version: int
    leg: int = 0


@dataclass(slots=True)  # not frozen: one is made for each request, and freezing would take four times as long
class Plan:
    """A decision: its legs, and the data that it was drawn from. If `merged`, the client gets one list from all legs.

    `propensity` is the probability of leg 0. The other legs were not drawn, and have 0.
    """

    legs: tuple[Leg, ...]
    propensity: float
    snapshot: int
    mask: int
    policy: str
    merged: bool = False


class EndpointLegs:
    """The legs of an endpoint's arms, built once and shared by all plans."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._arms = tuple(endpoint.arms)
        self.single = [self._legs(arm, ()) for arm in range(len(self._arms))]
        """For each arm the legs of a plan with that arm alone."""
        self.several = lru_cache(maxsize=1024)(self._legs)
        """`several(arm, others)` returns the legs of a plan in which `arm` is leg 0."""

    def _legs(self, arm: int, others: tuple[int, ...]) -> tuple[Leg, ...]:
        targets = [(self._arms[one], self._endpoint.arms[self._arms[one]]) for one in (arm, *others)]
        return tuple([Leg(name, target.model, target.version, leg) for leg, (name, target) in enumerate(targets)])

    def place_of(self, name: str) -> int:
        """Return the place of an arm, by its name or its version; raises NotFound naming the arms."""
        if name in self._endpoint.arms:
            return self._arms.index(name)
        for arm, target in enumerate(self._endpoint.arms.values()):
            if str(target.version) == name:
                return arm
        known = ", ".join(f"{arm} (version {target.version})" for arm, target in self._endpoint.arms.items())
        raise NotFound(f"endpoint {self._endpoint.endpoint} has no arm or version {name!r}; it has {known}")
