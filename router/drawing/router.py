"""The router of one endpoint: pure, no I/O. `plan` says who gets a request; `merge` builds what the client sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

from broker.errors import NotFound
from broker.protocol.header import Request
from broker.protocol.ids import uniform_for
from broker.records.endpoint import Endpoint
from router.declaration.features import Feature
from router.interleaving.placed import stream
from router.policies.assignment import cumulative, draw, rendezvous
from router.policies.base import Policy
from router.policies.interleaving import Interleaving
from router.policies.learned import LearnedLinearPolicy
from router.policies.shadow import Shadow
from router.policies.snapshot import WeightSnapshot, masked
from router.ranking.fan_in import Heard
from router.ranking.merging import MergedAnswer, merge

PINNED = "pinned"
HOLDOUT = "holdout"
NOBODY = ()


class Leg(NamedTuple):
    """One arm that gets the request. Leg 0 is the one that answers, but for lists that are merged: there all do."""

    arm: str
    model: str
    version: int
    leg: int = 0


@dataclass(slots=True)  # not frozen: one is made for each request, and that would take four times as long
class Plan:
    """A decision: its legs, and what it was drawn from. With `merged` the client sees one list made of all answers.

    `propensity` is how probable leg 0 was; the others were not drawn, theirs is 0.
    """

    legs: tuple[Leg, ...]
    propensity: float
    snapshot: int
    mask: int
    policy: str
    merged: bool = False


class Router:
    """Plans requests for one endpoint. The same identity, snapshot and mask give the same plan, everywhere."""

    def __init__(self, endpoint: Endpoint, policy: Policy, key: bytes) -> None:
        self.endpoint = endpoint
        self._policy = policy
        key, salt = key[:64], (endpoint.experiment or endpoint.endpoint).encode()
        self._arms = tuple(endpoint.arms)
        self._number = uniform_for(key, salt)
        self._stream = partial(stream, key, salt)
        self._rendezvous = rendezvous(self._arms, key, salt)
        self._excluded: Callable[[bytes], bool] | None = _excluded(endpoint, key, salt)
        self._companions: Callable[[bytes, int, int], tuple[int, ...]] | None = None
        if isinstance(policy, Shadow):
            self._companions = partial(self._shadowed, policy, uniform_for(key, b"\0shadow\0" + salt))
        elif isinstance(policy, Interleaving):
            self._companions = self._rankers
        self._name, self._sticky, self._merges = policy.name, policy.sticky, isinstance(policy, Interleaving)
        self._alone = [self._legs_of(arm, NOBODY) for arm in range(len(self._arms))]
        self._together = lru_cache(maxsize=1024)(self._legs_of)
        self.follow(policy.first())

    def plan(
        self, uid: bytes, mask: int, *, key: str = "", pin: str | None = None, vector: Sequence[float] | None = None
    ) -> Plan:
        """Draw an arm for a request among the arms in `mask`; `vector` are its features, if the policy looks at some.

        The request's `key` decides whether it takes part in the experiment at all, and draws where the policy is
        sticky; without one its uid does.
        """
        if pin is not None:
            return self._pinned(pin, mask)
        unit = key.encode() if key else uid
        if self._excluded is not None and self._excluded(unit):
            return Plan(self._alone[0], 1.0, self._snapshot.number, mask, HOLDOUT)
        identity = unit if self._sticky else uid
        if self._pick is not None and vector is not None:
            arm, propensity = self._pick(vector, mask, self._number(uid))
        else:
            arm, propensity = self._drawn(identity, mask)
        others = NOBODY if self._companions is None else self._companions(identity, mask, arm)
        if not others:
            return Plan(self._alone[arm], propensity, self._snapshot.number, mask, self._name)
        legs = self._together(arm, others)
        return Plan(legs, propensity, self._snapshot.number, mask, self._name, self._merges)

    def follow(self, snapshot: WeightSnapshot) -> None:
        """Draw from this snapshot from now on; plans that were made stay as they are.

        Raises ValueError for models that are none of this policy's.
        """
        pick: Callable[[Sequence[float], int, float], tuple[int, float]] | None = None
        if isinstance(self._policy, LearnedLinearPolicy) and snapshot.models is not None:
            from router.policies.build import weigher_of  # what it needs is heavy

            pick = weigher_of(self._policy, snapshot).pick
        self._snapshot, self._pick = snapshot, pick
        self._sums = lru_cache(maxsize=64)(partial(_cumulative, snapshot.weights))

    def merge(self, request: Request, heard: Heard) -> MergedAnswer:
        """Return what the client sees of all that the rankers of `request`, leg 0, said. See `merging.merge`.

        The same uid and rankings give the same list, whichever of them was leg 0.
        """
        if self.interleaving is None:
            raise ValueError(f"policy {self._policy.name}: only `interleave` makes one answer of several")
        rankers = [arm for arm in self._arms if arm in heard]
        return merge(request, rankers, heard, self.interleaving, self._stream(request.uid))

    @property
    def interleaving(self) -> Interleaving | None:
        """The policy, if it makes one list of several rankings."""
        return self._policy if isinstance(self._policy, Interleaving) else None

    @property
    def policy(self) -> Policy:
        """What the endpoint declares."""
        return self._policy

    @property
    def snapshot(self) -> WeightSnapshot:
        """What plans are drawn from now."""
        return self._snapshot

    @property
    def sticky(self) -> bool:
        """Whether plans are drawn by key."""
        return self._policy.sticky

    @property
    def draws_by_key(self) -> bool:
        """Whether a request's key has a say: in its arm, or in whether it takes part at all."""
        return self._sticky or self._excluded is not None

    @property
    def features(self) -> tuple[Feature, ...]:
        """What plans look at in a request; nothing for most policies."""
        return self._policy.config.features if isinstance(self._policy, LearnedLinearPolicy) else ()

    def _drawn(self, identity: bytes, mask: int) -> tuple[int, float]:
        """Draw an arm by the snapshot's weights; return its place and its probability."""
        probabilities, sums = self._sums(mask)
        if len(self._arms) == 1:
            arm = 0
        elif self._sticky:
            arm = self._rendezvous(probabilities, identity)
        else:
            arm = draw(sums, self._number(identity))
        return arm, probabilities[arm]

    def _legs_of(self, arm: int, others: tuple[int, ...]) -> tuple[Leg, ...]:
        targets = [(self._arms[one], self.endpoint.arms[self._arms[one]]) for one in (arm, *others)]
        return tuple([Leg(name, target.model, target.version, leg) for leg, (name, target) in enumerate(targets)])

    def _shadowed(
        self, shadow: Shadow, number: Callable[[bytes], float], identity: bytes, mask: int, arm: int
    ) -> tuple[int, ...]:
        """Return the shadow for a sample of the requests, while it is there: nothing is to pile up for it."""
        if arm == shadow.shadow or not mask >> shadow.shadow & 1:
            return NOBODY
        drawn = shadow.sample >= 1.0 or number(identity) < shadow.sample
        return (shadow.shadow,) if drawn else NOBODY

    def _rankers(self, _: bytes, mask: int, arm: int) -> tuple[int, ...]:
        """Return the other rankers that have weight and are ready."""
        probabilities = self._sums(mask)[0]
        return tuple([other for other, probability in enumerate(probabilities) if probability > 0.0 and other != arm])

    def _pinned(self, arm: str, mask: int) -> Plan:
        """A pinned arm is served and logged, never credited: propensity 0 says so."""
        return Plan(self._alone[self._arm_named(arm)], 0.0, self._snapshot.number, mask, PINNED)

    def _arm_named(self, name: str) -> int:
        if name in self.endpoint.arms:
            return self._arms.index(name)
        for arm, target in enumerate(self.endpoint.arms.values()):
            if str(target.version) == name:
                return arm
        known = ", ".join(f"{arm} (version {target.version})" for arm, target in self.endpoint.arms.items())
        raise NotFound(f"endpoint {self.endpoint.endpoint} has no arm or version {name!r}; it has {known}")


def _cumulative(weights: Sequence[float], mask: int) -> tuple[list[float], list[float]]:
    probabilities = masked(weights, mask)
    return probabilities, cumulative(probabilities)


def _excluded(endpoint: Endpoint, key: bytes, salt: bytes) -> Callable[[bytes], bool] | None:
    """Return what tells whether a unit is held out, or in another experiment's slice; None if nobody ever is.

    Slices of one group are drawn alike for all endpoints, so that those of two never share a key. No name begins with
    a zero byte, so these draws are no arm's.
    """
    holdout, exclusive = endpoint.holdout, endpoint.exclusive
    if not holdout and exclusive is None:
        return None
    group = b"" if exclusive is None else b"\0exclusive\0" + exclusive.group.encode()
    slice_, held = uniform_for(key, group), uniform_for(key, b"\0holdout\0" + salt)
    low, high = (0.0, 1.0) if exclusive is None else exclusive.slice

    def excluded(unit: bytes) -> bool:
        if group and not low <= slice_(unit) < high:
            return True
        return held(unit) < holdout

    return excluded
