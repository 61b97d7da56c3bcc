"""The router of one endpoint: pure, no I/O. `plan` says who gets a request; `merge` builds what the client sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from broker.endpoint import Endpoint
from broker.errors import NotFound
from broker.header import Answer
from broker.ids import uniform
from router.assignment import cumulative, draw, rendezvous
from router.policies.base import Policy
from router.snapshot import Snapshot, masked

PINNED = "pinned"


@dataclass(frozen=True, slots=True)
class Leg:
    """One arm that gets the request. Leg 0 is the one that answers."""

    arm: str
    model: str
    version: int
    propensity: float
    leg: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A decision: its legs, and what it was drawn from."""

    legs: tuple[Leg, ...]
    snapshot: int
    mask: int
    policy: str


class Router:
    """Plans requests for one endpoint. The same identity, snapshot and mask give the same plan, everywhere."""

    def __init__(self, endpoint: Endpoint, policy: Policy, key: bytes) -> None:
        self.endpoint = endpoint
        self._policy = policy
        self._key = key[:64]
        self._salt = (endpoint.experiment or endpoint.endpoint).encode()
        self._arms = tuple(endpoint.arms)
        self._snapshot = policy.first()
        self._sums = lru_cache(maxsize=64)(self._cumulative)
        self._plans = lru_cache(maxsize=1024)(self._planned)

    def plan(self, identity: bytes, mask: int, *, pin: str | None = None) -> Plan:
        """Draw an arm for an identity (the uid, or the key of a sticky policy) among the arms in `mask`."""
        if pin is not None:
            return self._pinned(pin, mask)
        probabilities, sums = self._sums(self._snapshot, mask)
        if len(self._arms) == 1:
            arm = 0
        elif self._policy.sticky:
            arm = rendezvous(probabilities, self._arms, self._key, self._salt, identity)
        else:
            arm = draw(sums, uniform(self._key, self._salt, identity))
        return self._plans(self._snapshot, mask, arm)

    def merge(self, answers: Sequence[Answer]) -> Answer:
        """Return what the client sees; policies with one answering leg show just that."""
        return answers[0]

    @property
    def sticky(self) -> bool:
        """Whether plans are drawn by key."""
        return self._policy.sticky

    def _cumulative(self, snapshot: Snapshot, mask: int) -> tuple[list[float], list[float]]:
        probabilities = masked(snapshot.weights, mask)
        return probabilities, cumulative(probabilities)

    def _planned(self, snapshot: Snapshot, mask: int, arm: int) -> Plan:
        probability = self._sums(snapshot, mask)[0][arm]
        return Plan((self._leg(self._arms[arm], probability),), snapshot.number, mask, self._policy.name)

    def _pinned(self, arm: str, mask: int) -> Plan:
        """A pinned arm is served and logged, never credited: propensity 0 says so."""
        return Plan((self._leg(self._arm_named(arm), 0.0),), self._snapshot.number, mask, PINNED)

    def _arm_named(self, name: str) -> str:
        if name in self.endpoint.arms:
            return name
        for arm, target in self.endpoint.arms.items():
            if str(target.version) == name:
                return arm
        known = ", ".join(f"{arm} (version {target.version})" for arm, target in self.endpoint.arms.items())
        raise NotFound(f"endpoint {self.endpoint.endpoint} has no arm or version {name!r}; it has {known}")

    def _leg(self, arm: str, propensity: float) -> Leg:
        target = self.endpoint.arms[arm]
        return Leg(arm, target.model, target.version, propensity)
