"""The propensity that is logged is the probability of the draw, and follows from snapshot, mask and features."""

from __future__ import annotations

import math

import numpy as np
import pytest

from broker.protocol.ids import uniform
from broker.records.endpoint import read_endpoint
from router.drawing.router import Router
from router.learning.contextual import ContextualExperiment
from router.learning.declared import read_experiment
from router.policies.assignment import cumulative, draw
from router.policies.declared import read_policy
from router.policies.learned import LearnedLinearPolicy
from router.policies.learning import one_run
from router.policies.snapshot import WeightSnapshot, masked
from router.stats.arrays import Floats, Ints
from router.stats.packing import packed
from tests.router.drawing.routers import identities

DRAWS = 100_000
ARMS = ("a", "b", "c", "d")
Z_LIMIT = 5.0  # 6e-7 two-sided for each arm and case
SNAPSHOTS = (
    WeightSnapshot(0, (0.25, 0.25, 0.25, 0.25)),
    WeightSnapshot(4, (0.7, 0.2, 0.099, 0.001)),
    WeightSnapshot(9, (0.0, 0.5, 0.3, 0.2)),
)
MASKS = (0b1111, 0b0111, 0b1010)


def router_of(policy: dict[str, object]) -> Router:
    arms = {arm: f"m@{version}" for version, arm in enumerate(ARMS, 1)}
    rewards = {"rewards": {"clicked": {"default": 0}}}
    declaration = {"endpoint": "e", "arms": arms, "policy": policy, "feedback": rewards, "key": "parameters.user"}
    endpoint = read_endpoint(declaration, source="test")
    return Router(endpoint, read_policy(endpoint), b"secret")


@pytest.mark.parametrize(
    "policy",
    [{"bandit": "thompson", "reward": "clicked"}, {"split": list(ARMS)}, {"split": list(ARMS), "sticky": True}],
    ids=["bandit", "split", "sticky"],
)
def test_a_logged_propensity_follows_from_its_snapshot_and_mask(policy: dict[str, object]) -> None:
    """P1, for 1e5 decisions over snapshots and masks that change on the way."""
    router, uids = router_of(policy), identities(DRAWS)
    known = {snapshot.number: snapshot for snapshot in SNAPSHOTS}
    part = DRAWS // (len(SNAPSHOTS) * len(MASKS))
    for place, (snapshot, mask) in enumerate((snapshot, mask) for snapshot in SNAPSHOTS for mask in MASKS):
        router.follow(snapshot)
        plans = [router.plan(uid, mask) for uid in uids[place * part : (place + 1) * part]]
        expected = masked(known[plans[0].snapshot].weights, plans[0].mask)
        assert abs(math.fsum(expected) - 1.0) < 1e-12
        drawn = np.array([ARMS.index(plan.legs[0].arm) for plan in plans])
        logged = np.array([plan.propensity for plan in plans])
        assert {(plan.snapshot, plan.mask) for plan in plans} == {(snapshot.number, mask)}
        assert np.abs(logged - np.array(expected)[drawn]).max() < 1e-12
        _check_shares(drawn, np.broadcast_to(expected, (len(drawn), len(ARMS))))
        _check_inverse(logged, sum(probability > 0.0 for probability in expected), min(filter(None, expected)))


def test_a_logged_propensity_follows_from_the_models_and_the_features() -> None:
    """P1 with features: each request has probabilities of its own; the floor gives all arms full support."""
    policy: dict[str, object] = {"bandit": "linucb", "reward": "clicked", "features": ["x", "y"], "floor": "5%"}
    router = router_of(policy)
    assert isinstance(router.policy, LearnedLinearPolicy)
    experiment = read_experiment(router.endpoint)
    assert isinstance(experiment, ContextualExperiment)
    random = np.random.default_rng(1)
    size = experiment.learning.dimensions
    seen = one_run(list(random.integers(4, size=400)), list(random.random(400)), [0.25] * 400)
    models = packed(experiment.learning.fold(experiment.start(), seen, random.standard_normal((400, size))))
    snapshot = WeightSnapshot(7, (0.25,) * 4, models)
    router.follow(snapshot)
    weigh = router.policy.weigher_from(models)
    vectors = random.standard_normal((DRAWS // 10, size))
    drawn, logged, expected = [], [], []
    for uid, vector in zip(identities(len(vectors)), vectors, strict=True):
        plan = router.plan(uid, 0b1011, vector=vector)
        assert plan.snapshot == 7
        expected.append(masked(weigh.weights(vector), plan.mask))
        drawn.append(ARMS.index(plan.legs[0].arm))
        logged.append(plan.propensity)
    pmf = np.array(expected)
    assert np.abs(pmf.sum(axis=-1) - 1.0).max() < 1e-12
    assert np.abs(np.array(logged) - pmf[np.arange(len(drawn)), drawn]).max() < 1e-12
    assert len(np.unique(pmf.round(6), axis=0)) > 1
    _check_shares(np.array(drawn), pmf)
    _check_inverse(np.array(logged), 3, 0.05)


@pytest.mark.parametrize("bandit", ["linucb", "lints"])
def test_a_policy_that_looks_at_features_draws_by_the_hash_of_the_request_alone(bandit: str) -> None:
    """Its key decides nothing; without features, or while a snapshot holds no models, its weights do."""
    policy: dict[str, object] = {"bandit": bandit, "reward": "clicked", "features": ["x", "y"], "floor": "5%"}
    router = router_of(policy)
    assert isinstance(router.policy, LearnedLinearPolicy)
    experiment = read_experiment(router.endpoint)
    assert isinstance(experiment, ContextualExperiment)
    seen = one_run([0, 1, 2, 3] * 5, [0.9, 0.1, 0.5, 0.2] * 5, [0.25] * 20)
    models = packed(experiment.learning.fold(experiment.start(), seen, np.ones((20, 3))))
    vector, weights = [1.0, 1.0, 1.0], (0.4, 0.3, 0.2, 0.1)
    snapshot = WeightSnapshot(7, weights, models)
    weigh = router.policy.weigher_from(models)
    for uid in identities(500):
        number = uniform(b"secret", b"e", uid)
        router.follow(snapshot)
        for key in ("", "user"):
            plan = router.plan(uid, 0b1111, key=key, vector=vector)
            arm, propensity = weigh.pick(vector, 0b1111, number)
            assert (plan.legs[0].arm, plan.propensity) == (ARMS[arm], propensity)
        by_weights = router.plan(uid, 0b1111)
        assert by_weights.legs[0].arm == ARMS[draw(cumulative(weights), number)]
        router.follow(WeightSnapshot(8, weights))
        again = router.plan(uid, 0b1111, vector=vector)
        assert (again.legs, again.propensity, again.snapshot) == (by_weights.legs, by_weights.propensity, 8)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (0b111, [0.2, 0.3, 0.5]),
        (0b011, [0.4, 0.6, 0.0]),
        (0b1011, [0.4, 0.6, 0.0]),
        (0, [0.2, 0.3, 0.5]),
        (0b11000, [0.2, 0.3, 0.5]),
    ],
)
def test_a_mask_leaves_the_arms_that_it_names(mask: int, expected: list[float]) -> None:
    """Bits beyond the arms are ignored, and so is a mask that leaves no arm."""
    assert masked((2.0, 3.0, 5.0), mask) == pytest.approx(expected, abs=1e-15)


def _check_shares(drawn: Ints, pmf: Floats) -> None:
    """Hold each arm's count to the sum of its probabilities; one without any is never drawn."""
    for arm in range(len(ARMS)):
        count, sum_p = int((drawn == arm).sum()), float(pmf[:, arm].sum())
        variance = float((pmf[:, arm] * (1.0 - pmf[:, arm])).sum())
        assert abs(count - sum_p) <= Z_LIMIT * math.sqrt(variance), ARMS[arm]


def _check_inverse(logged: Floats, arms: int, least: float) -> None:
    """Hold the mean of 1/p to the number of arms that can be drawn: at most arms/least - arms^2 is its variance."""
    error = math.sqrt((arms / least - arms**2) / len(logged)) + 1e-9
    assert abs(float((1.0 / logged).mean()) - arms) < Z_LIMIT * error
