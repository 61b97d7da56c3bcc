"""Who gets a request beside the arm that answers: a shadow, as long as it is there."""

from __future__ import annotations

from broker.protocol.header import Request, Route
from router.drawing.legs import rankers_of, shadow_of
from router.drawing.plan import Plan
from router.drawing.router import Router
from tests.router.drawing.test_router import identities, router_of

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
    shadow = shadow_of(request_of(plan), plan)
    assert shadow is not None
    assert (shadow.route.arm, shadow.route.leg, shadow.propensity) == ("b", 1, 0.0)


def test_of_the_rankers_only_the_one_that_was_drawn_has_a_probability() -> None:
    rewards = {"rewards": {"clicked": {"default": 0}}}
    router = router_of({"interleave": ["a", "b", "c"], "credit": "clicked"}, feedback=rewards)
    plan = router.plan(b"x" * 16, A | B | C)
    rankers = rankers_of(request_of(plan), plan, "answers")
    assert [(one.route.leg, one.propensity) for one in rankers] == [(0, plan.propensity), (1, 0.0), (2, 0.0)]
    assert sorted(one.route.arm for one in rankers) == ["a", "b", "c"]
    assert plan.propensity == 1 / 3


def test_a_sample_of_the_requests_has_a_shadow() -> None:
    """Half of 20 000: 4 standard errors, 6e-5, but the ids stay the same."""
    router = router_of({**SHADOWED, "sample": 0.5})
    both = sum(len(router.plan(uid, A | B).legs) == 2 for uid in identities())
    assert abs(both - 10_000) < 4 * 5000**0.5
    assert shadows(router, A) == {("a",)}


def request_of(plan: Plan) -> Request:
    """Return leg 0's request."""
    leg = plan.legs[0]
    route = Route(endpoint="e", arm=leg.arm, model=leg.model, version=leg.version, policy=plan.policy, mask=plan.mask)
    return Request(route=route, uid=b"x" * 16, accepted_us=1, propensity=plan.propensity)
