"""One function plans the requests of HTTP and of queue clients."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import InvalidRequest, NotFound, Unavailable
from broker.protocol.header import ReplyTo, Request, Route
from router.drawing.keys import KEY_CHARACTERS
from router.drawing.plan import Plan
from router.drawing.planner import ClientRequest, plan_request
from router.drawing.router import Router
from tests.router.drawing.routers import router_of

SPLIT: dict[str, object] = {"split": ["a", "b", "c"]}
STICKY: dict[str, object] = {**SPLIT, "sticky": True}
LINUCB: dict[str, object] = {"bandit": "linucb", "reward": "clicked", "features": ["age"], "floor": 0.01}
REWARD: dict[str, object] = {"feedback": {"rewards": {"clicked": {"default": 0}}}}
BODY = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],"parameters":{"user":"u","age":3}}'
UID = b"u" * 16


def client_of(**more: Any) -> ClientRequest:
    return ClientRequest(UID, 1_000_000, **{"allowed_us": 1_001_000, "body": BODY, **more})


def planned(router: Router, **more: Any) -> tuple[Request, Plan]:
    return plan_request(router, 0b111, client_of(**more), lambda: None)


def refuse() -> None:
    raise Unavailable("another key")


def test_a_request_has_its_decision_and_everything_that_its_client_sent() -> None:
    client = client_of(
        json_length=len(BODY),
        key="k",
        pin="b",
        trace="00-1",
        extra=b"{}",
        tenant="shop",
        correlation="c",
        reply=ReplyTo.CLIENT,
        reply_to="mine",
    )
    request, plan = plan_request(router_of(SPLIT), 0b011, client, lambda: None)
    route = Route(
        endpoint="e",
        arm="b",
        model="m",
        version=2,
        mask=0b011,
        policy="pinned",
        tenant="shop",
        reply=ReplyTo.CLIENT,
        reply_to="mine",
    )
    assert request == Request(
        route=route,
        uid=UID,
        accepted_us=1_000_000,
        deadline_us=2_001_000,
        propensity=0.0,
        json_length=len(BODY),
        key="k",
        correlation="c",
        trace="00-1",
        extra=b"{}",
        body=BODY,
    )
    assert plan.legs[0].arm == "b"


def test_a_drawn_request_has_its_probability() -> None:
    request, plan = planned(router_of(SPLIT))
    assert request.propensity == pytest.approx(1 / 3)
    assert request.route.arm == plan.legs[0].arm


@pytest.mark.parametrize(
    ("policy", "key", "pin", "is_checked"),
    [
        (STICKY, "k", None, True),
        (STICKY, "", None, False),  # drawn by the uid
        (STICKY, "k", "a", False),
        (SPLIT, "k", None, False),
    ],
)
def test_the_assignment_key_is_checked_only_if_a_key_draws_the_arm(
    policy: dict[str, object], key: str, pin: str | None, is_checked: bool
) -> None:
    router, client = router_of(policy, key="header"), client_of(key=key, pin=pin)
    if is_checked:
        with pytest.raises(Unavailable):
            plan_request(router, 0b111, client, refuse)
    else:
        plan_request(router, 0b111, client, refuse)


def test_features_are_read_and_noted_only_if_an_arm_is_drawn() -> None:
    router = router_of(LINUCB, **REWARD)
    assert planned(router)[0].extra == b'{"features":[1.0,3.0]}'
    assert planned(router, pin="a", body=b"no JSON")[0].extra == b""
    with pytest.raises(InvalidRequest, match=r"parameters\.age is missing"):
        planned(router, body=BODY.replace(b"age", b"size"))


def test_the_key_is_the_clients_or_a_declared_parameter() -> None:
    router = router_of(STICKY, key="parameters.user")
    assert planned(router)[0].key == "u"
    assert planned(router, key="k")[0].key == "k"


@pytest.mark.parametrize("more", [{"key": "k" * 257}, {"body": b'{"parameters":{"user":"%b"}}' % (b"u" * 257)}])
def test_too_long_a_key_is_refused_wherever_it_comes_from(more: dict[str, Any]) -> None:
    assert KEY_CHARACTERS == 256
    with pytest.raises(InvalidRequest, match="the key has 257 characters; 256 are allowed"):
        planned(router_of(STICKY, key="parameters.user"), **more)


def test_an_unknown_pin_is_not_found() -> None:
    with pytest.raises(NotFound, match="no arm or version 'z'"):
        planned(router_of(SPLIT), pin="z")
