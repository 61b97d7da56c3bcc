"""The router of one endpoint: pure, no I/O. `plan` draws the arm of a request; `merge` combines rankers' answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from broker.protocol.header import Request
from broker.protocol.ids import uniform_for
from broker.records.endpoint import Endpoint
from router.declaration.features import Feature
from router.drawing.arm_draw import ArmDraw
from router.drawing.eligibility import exclusion
from router.drawing.plan import EndpointLegs, Plan
from router.interleaving.placed import stream
from router.policies.policy import ListMerging, Policy
from router.policies.snapshot import WeightSnapshot
from router.ranking.fan_in import AnswersByArm
from router.ranking.merging import MergedAnswer, merge

PINNED = "pinned"
HOLDOUT = "holdout"
NO_ARMS = ()

Pick = Callable[[Sequence[float], int, float], tuple[int, float]]


class Router:
    """Plans requests for one endpoint. The same identity, snapshot and mask give the same plan, everywhere."""

    def __init__(self, endpoint: Endpoint, policy: Policy, key: bytes) -> None:
        """`key` is the assignment key: arms are drawn by a hash of it, of the experiment's name and of an identity."""
        key, salt = key[:64], (endpoint.experiment or endpoint.endpoint).encode()
        self.endpoint = endpoint
        self.policy = policy
        self.merging: ListMerging | None = policy.merging
        """How rankers' lists become one answer; None if the drawn arm answers alone."""
        self._legs = EndpointLegs(endpoint)
        self._arms = ArmDraw(tuple(endpoint.arms), key, salt, sticky=policy.sticky)
        self._excluded = exclusion(endpoint, key, salt)
        self._companions = policy.companions(uniform_for(key, b"\0%b\0%b" % (policy.name.encode(), salt)))
        self._stream = partial(stream, key, salt)
        self._name, self._sticky, self._merges = policy.name, policy.sticky, self.merging is not None
        self.follow(policy.first())

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features of a request that plans depend on; empty for most policies."""
        return self.policy.features

    @property
    def draws_by_key(self) -> bool:
        """Whether a request's key decides its arm, or whether it takes part in the experiment."""
        return self._sticky or self._excluded is not None

    def plan(
        self, uid: bytes, mask: int, *, key: str = "", pin: str | None = None, vector: Sequence[float] | None = None
    ) -> Plan:
        """Draw an arm for a request among the arms in `mask`; raises NotFound for an unknown `pin`.

        The request's `key` decides whether it takes part in the experiment, and draws the arm if the policy is sticky;
        without a key the uid does. `pin` names an arm to use instead. `vector` are the values of `features`.
        """
        if pin is not None:
            return self._pinned(pin, mask)
        unit = key.encode() if key else uid
        if self._excluded is not None and self._excluded(unit):
            return Plan(self._legs.single[0], 1.0, self.snapshot.number, mask, HOLDOUT)
        identity = unit if self._sticky else uid
        probabilities: Sequence[float] = NO_ARMS
        if self._pick is not None and vector is not None:
            arm, propensity = self._pick(vector, mask, self._arms.number(uid))
        else:
            arm, probabilities = self._arms.draw(identity, mask)
            propensity = probabilities[arm]
        others = NO_ARMS if self._companions is None else self._companions(identity, mask, arm, probabilities)
        if not others:
            return Plan(self._legs.single[arm], propensity, self.snapshot.number, mask, self._name)
        legs = self._legs.several(arm, others)
        return Plan(legs, propensity, self.snapshot.number, mask, self._name, self._merges)

    def follow(self, snapshot: WeightSnapshot) -> None:
        """Draw from this snapshot from now on. Raises ValueError if its models do not belong to the policy."""
        weigher = self.policy.weigher(snapshot)
        self._pick: Pick | None = None if weigher is None else weigher.pick
        self._arms.follow(snapshot)
        self.snapshot = snapshot

    def merge(self, request: Request, answers: AnswersByArm) -> MergedAnswer:
        """Return the one answer from all rankers of `request`, which is leg 0. See `merging.merge`.

        The same uid and rankings give the same list, whichever ranker was leg 0.
        """
        if self.merging is None:
            raise ValueError(f"policy {self._name} does not merge the answers of several arms")
        rankers = [arm for arm in self.endpoint.arms if arm in answers]
        return merge(request, rankers, answers, self.merging, self._stream(request.uid))

    def _pinned(self, arm: str, mask: int) -> Plan:
        """Plan a pinned arm: with probability 0, so that it is served and logged, but never credited."""
        legs = self._legs.single[self._legs.place_of(arm)]
        return Plan(legs, 0.0, self.snapshot.number, mask, PINNED)
