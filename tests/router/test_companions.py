"""Who gets a request beside the arm that answers: a shadow, as long as it is there."""

from __future__ import annotations

from router.router import Plan, Router
from tests.router.test_router import identities, router_of

A, B, C = 0b001, 0b010, 0b100
SHADOWED: dict[str, object] = {"shadow": "b", "serve": "a"}


def shadows(router: Router, mask: int) -> set[tuple[str, ...]]:
    """Return who gets the requests under a mask: the arm that answers first."""
    return {tuple(leg.arm for leg in router.plan(uid, mask).legs) for uid in identities(300)}


def test_a_shadow_that_is_not_there_gets_nothing() -> None:
    """Requests would pile up in its queue, and it would answer them all when it comes."""
    router = router_of(SHADOWED)
    assert shadows(router, A | B | C) == {("a", "b")}
    assert shadows(router, A | C) == {("a",)}
    assert shadows(router, A) == {("a",)}
    assert shadows(router, 0) == {("a",)}


def test_a_shadow_is_the_second_leg_and_never_credited() -> None:
    plan: Plan = router_of(SHADOWED).plan(b"x" * 16, A | B)
    assert [(leg.arm, leg.leg) for leg in plan.legs] == [("a", 0), ("b", 1)]
    assert plan.propensity == 1.0
    assert not plan.merged


def test_a_sample_of_the_requests_has_a_shadow() -> None:
    """Half of 20 000: 4 standard errors, 6e-5, but the ids stay the same."""
    router = router_of({**SHADOWED, "sample": 0.5})
    both = sum(len(router.plan(uid, A | B).legs) == 2 for uid in identities())
    assert abs(both - 10_000) < 4 * 5000**0.5
    assert shadows(router, A) == {("a",)}
