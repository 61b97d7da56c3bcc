"""Holdouts and exclusive slices: their shares, their stability, and that nothing is learnt from them."""

from __future__ import annotations

import pytest

from router.drawing.router import HOLDOUT, Router
from router.policies.snapshot import WeightSnapshot
from tests.router.drawing.routers import router_of

KEYS = 50_000
SPLIT: dict[str, object] = {"split": ["b", "c"]}


def of_slice(low: str, high: str, **more: object) -> Router:
    exclusive = {"group": "home", "slice": [low, high]}
    return router_of(SPLIT, **{"exclusive": exclusive, "key": "parameters.user", **more})


def taking_part(router: Router) -> set[int]:
    """Return the keys that take part, and check that nothing can be learnt from the others."""
    found = set()
    for key in range(KEYS):
        plan = router.plan(b"", 0b111, key=f"user-{key}")
        if plan.policy == HOLDOUT:
            assert (plan.legs[0].arm, plan.propensity, len(plan.legs)) == ("a", 1.0, 1)
        else:
            found.add(key)
    return found


def is_share(number: int, share: float, of: int = KEYS) -> bool:
    """Return True if a count is within 5 standard errors of a share (6e-7)."""
    error: float = (of * share * (1 - share)) ** 0.5
    return abs(number - of * share) <= 5 * error


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5])
def test_as_many_are_held_out_as_declared(share: float) -> None:
    assert is_share(KEYS - len(taking_part(router_of(SPLIT, holdout=share))), share)


def test_all_are_held_out_of_a_holdout_of_all() -> None:
    assert not taking_part(router_of(SPLIT, holdout=1.0))


def test_a_slice_has_its_share_and_holdouts_are_a_share_of_it() -> None:
    inside = taking_part(of_slice("20%", "50%"))
    assert is_share(len(inside), 0.3)
    both = taking_part(of_slice("20%", "50%", holdout="10%"))
    assert both < inside
    assert is_share(len(both), 0.9, len(inside))


def test_slices_of_one_group_never_share_a_key_and_together_have_all() -> None:
    """They are of different endpoints and experiments, one of them with a holdout."""
    one, two = of_slice("0%", "30%"), of_slice("30%", "60%", experiment="another")
    three = of_slice("60%", "100%", experiment="third", endpoint="f")
    found = [taking_part(router) for router in (one, two, three)]
    assert not found[0] & found[1]
    assert not found[0] & found[2]
    assert not found[1] & found[2]
    assert len(set.union(*found)) == KEYS


def test_holdouts_of_two_experiments_are_independent() -> None:
    one, two = (taking_part(router_of(SPLIT, holdout="50%", experiment=name)) for name in ("e1", "e2"))
    assert is_share(len(one & two), 0.25)


def test_a_held_out_key_stays_held_out_when_the_endpoint_changes() -> None:
    """Another request, another snapshot, arms that come and go; a larger holdout keeps all that it had."""
    router = router_of(SPLIT, holdout="10%")
    before = {key for key in range(2000) if router.plan(b"one", 0b111, key=f"user-{key}").policy == HOLDOUT}
    router.follow(WeightSnapshot(9, (0.0, 0.9, 0.1)))
    after = {key for key in range(2000) if router.plan(b"other", 0b011, key=f"user-{key}").policy == HOLDOUT}
    assert after == before
    larger = router_of(SPLIT, holdout="20%")
    assert before < {key for key in range(2000) if larger.plan(b"", 0b111, key=f"user-{key}").policy == HOLDOUT}


def test_the_holdout_is_independent_of_the_arms_of_the_others() -> None:
    """A holdout and the draw look at the same key with different salts: shares stay as declared, to 5 errors."""
    router = router_of({"split": {"b": 80, "c": 20}}, holdout="50%")
    arms = [plan.legs[0].arm for key in range(KEYS) if (plan := router.plan(b"%16d" % key, 0b111)).policy != HOLDOUT]
    assert is_share(arms.count("c"), 0.2, len(arms))


def test_a_pinned_request_is_pinned_even_for_a_holdout() -> None:
    plan = router_of(SPLIT, holdout=1.0).plan(b"x" * 16, 0b111, pin="b")
    assert (plan.legs[0].arm, plan.propensity, plan.policy) == ("b", 0.0, "pinned")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("holdout", {"holdout": "50%"}),
        ("home", {"endpoint": "exclusive", "exclusive": {"group": "home", "slice": ["0%", "50%"]}}),
        ("home", {"experiment": "exclusive", "exclusive": {"group": "home", "slice": ["50%", "100%"]}}),
    ],
)
def test_an_arm_of_the_same_name_is_drawn_by_another_number(name: str, more: dict[str, object]) -> None:
    router = router_of(
        {"split": ["first", name], "sticky": True}, arms={"first": "m@1", name: "m@2"}, key="parameters.user", **more
    )
    plans = [router.plan(b"", 0b11, key=f"user-{key}") for key in range(KEYS // 5)]
    drawn = [plan.legs[0].arm for plan in plans if plan.policy != HOLDOUT]
    assert is_share(drawn.count(name), 0.5, len(drawn))
