"""A plan is exact, repeatable, and never goes where the mask forbids while something else is there."""

from __future__ import annotations

from collections import Counter

import pytest

from broker.errors import Misconfigured, NotFound
from router.drawing.router import Router
from tests.router.drawing.routers import DRAWS, KEY, identities, router_of


def shares(router: Router, mask: int = 0b111) -> dict[str, float]:
    counts = Counter(router.plan(uid, mask).legs[0].arm for uid in identities())
    return {arm: count / DRAWS for arm, count in counts.items()}


@pytest.mark.parametrize("sticky", [False, True])
def test_shares_are_the_declared_weights_to_four_standard_errors(sticky: bool) -> None:
    found = shares(router_of({"split": {"a": 70, "b": 20, "c": 10}, "sticky": sticky}))
    for arm, share in {"a": 0.7, "b": 0.2, "c": 0.1}.items():
        assert abs(found[arm] - share) < 4 * (share * (1 - share) / DRAWS) ** 0.5


@pytest.mark.parametrize("sticky", [False, True])
def test_the_propensity_is_computed_after_the_mask(sticky: bool) -> None:
    router = router_of({"split": {"a": 70, "b": 20, "c": 10}, "sticky": sticky})
    plans = [router.plan(uid, 0b110) for uid in identities(500)]
    assert {plan.legs[0].arm for plan in plans} == {"b", "c"}
    (propensity,) = {plan.propensity for plan in plans if plan.legs[0].arm == "b"}
    assert propensity == pytest.approx(2 / 3)
    assert all(plan.mask == 0b110 and plan.snapshot == 0 for plan in plans)


def test_a_sticky_key_moves_only_when_its_own_arm_goes() -> None:
    router = router_of({"split": ["a", "b", "c"], "sticky": True})
    for uid in identities(2000):
        before = router.plan(uid, 0b111).legs[0].arm
        after = router.plan(uid, 0b011).legs[0].arm
        assert after == before or before == "c"


def test_the_same_identity_gives_the_same_plan_and_another_key_another_one() -> None:
    one, again, other = (router_of({"split": ["a", "b", "c"]}, key) for key in (KEY, KEY, b"other"))
    uids = identities(500)
    assert [one.plan(uid, 7) for uid in uids] == [again.plan(uid, 7) for uid in uids]
    assert [one.plan(uid, 7) for uid in uids] != [other.plan(uid, 7) for uid in uids]


def test_without_a_ready_arm_the_mask_is_ignored_so_that_the_request_waits_in_a_queue() -> None:
    assert router_of({"split": {"a": 1, "b": 0, "c": 0}}).plan(b"x" * 16, 0).legs[0].arm == "a"


def test_a_pinned_arm_is_served_and_never_credited() -> None:
    router = router_of({"split": ["a", "b", "c"]})
    assert router.plan(b"x" * 16, 7, pin="b").legs[0].arm == "b"
    assert router.plan(b"x" * 16, 7, pin="3").legs[0].arm == "c"
    assert router.plan(b"x" * 16, 7, pin="b").propensity == 0.0
    with pytest.raises(NotFound, match="no arm or version 'z'; it has a"):
        router.plan(b"x" * 16, 7, pin="z")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"spilt": ["a"]}, "known policies: split"),
        ({"split": {"a": 1, "z": 2}}, "'z' is not an arm; declared arms: a, b, c"),
        ({"split": {"a": -1, "b": 2}}, "is not a weight"),
        ({"split": {"a": 0}}, "sum to 0"),
        ({"split": ["a"], "stikcy": True}, "did you mean 'sticky'"),
    ],
)
def test_a_wrong_policy_is_refused_with_the_way_out(policy: dict[str, object], message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        router_of(policy)
