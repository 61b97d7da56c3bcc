"""A gateway also routes by pinned arms, features, holdouts and snapshots of the learner."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from broker.records.endpoint import read_endpoint
from broker.records.routing import SnapshotRecord, experiment_of, write_claim, write_snapshot
from router.declaration.policy import read_config
from router.policies.learning import one_run
from router.stats.packing import packed
from tests.gateway.running_gateway import Gateway, X, running_gateway
from tests.waiting import until

URL = "/v2/models/shop/infer"
ARMS = {"a": "double@1", "b": "double@1"}
CLICKED = {"rewards": {"clicked": {"default": 0}}}
LINEAR: dict[str, Any] = {
    "endpoint": "shop",
    "arms": ARMS,
    "feedback": CLICKED,
    "policy": {
        "bandit": "linucb",
        "reward": "clicked",
        "floor": 0.1,
        "alpha": 0.0,
        "features": ["hour", {"country": ["de", "fr"]}],
    },
}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path) as served:
        yield served


async def declare(gateway: Gateway, **declaration: Any) -> None:
    await gateway.declare(**{"endpoint": "shop", "arms": ARMS, **declaration})
    await gateway.until("/v2/models/shop/ready", 200)


def body(**parameters: Any) -> bytes:
    return json.dumps({"inputs": [X], "parameters": parameters}).encode()


async def test_a_tester_pins_an_arm_by_a_header(gateway: Gateway) -> None:
    await declare(gateway, policy={"split": {"a": 1, "b": 0}})
    for path, pin in ((URL, "b"), ("/v2/models/shop/versions/b/infer", "b")):
        answer = await gateway.client.post(path, content=body(), headers={"millrace-arm": pin})
        assert (answer.status_code, answer.headers["millrace-arm"]) == (200, "b")
    assert {(one.route.policy, one.propensity) for one in gateway.processor.seen} == {("pinned", 0.0)}


@pytest.mark.parametrize(
    ("path", "arm", "code", "named"),
    [
        (URL, "z", 404, "no arm or version 'z'; it has a"),
        (URL, "\xff", 404, "no arm or version"),
        ("/v2/models/shop/versions/a/infer", "b", 400, "'b' is not the path's version, 'a'"),
    ],
)
async def test_an_unknown_arm_is_an_error(gateway: Gateway, path: str, arm: str, code: int, named: str) -> None:
    await declare(gateway, policy={"split": ["a", "b"]})
    answer = await gateway.client.post(path, content=body(), headers={b"millrace-arm": arm.encode("latin-1")})
    assert (answer.status_code, named in answer.json()["error"]) == (code, True)


async def test_a_holdout_gets_the_first_arm_and_is_marked_in_its_row(gateway: Gateway) -> None:
    await declare(gateway, policy={"split": {"a": 0, "b": 1}}, holdout="100%")
    answer = await gateway.client.post(URL, content=body())
    assert answer.headers["millrace-arm"] == "a"
    assert [(one.route.policy, one.propensity) for one in gateway.processor.seen] == [("holdout", 1.0)]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"country": "de"}, "parameters.hour is missing"),
        ({"hour": "late", "country": "de"}, "parameters.hour"),
        ({"hour": 1e300, "country": "de"}, "parameters.hour"),
        ({"hour": 3}, "parameters.country is missing"),
    ],
)
async def test_missing_or_non_numeric_features_are_named(
    gateway: Gateway, parameters: dict[str, Any], named: str
) -> None:
    await declare(gateway, **LINEAR)
    answer = await gateway.client.post(URL, content=body(**parameters))
    assert (answer.status_code, named in answer.json()["error"]) == (400, True)


async def test_a_linear_policy_weighs_requests_by_their_features_and_logs_them(gateway: Gateway) -> None:
    """Arm a earns rewards in the morning, b in the evening; requests follow a snapshot with these weights."""
    await declare(gateway, **LINEAR)
    endpoint = read_endpoint(LINEAR, source="test")
    config: Any = read_config(endpoint)
    learning: Any = config.learning(2)
    hours = np.array([[1.0, hour, 1.0, 0.0] for hour in (1.0, 1.0, -1.0, -1.0)] * 20)
    seen = one_run([0, 1, 0, 1] * 20, [1.0, 0.0, 0.0, 1.0] * 20, [0.5] * 80)
    models = packed(learning.fold(learning.start(1), seen, hours))
    broker = gateway.broker
    await broker.append(broker.channels.declared, [write_claim("learner")])
    term = await broker.end(broker.channels.declared) - 1
    snapshot = SnapshotRecord(
        endpoint="shop", experiment=experiment_of(endpoint), term=term, number=5, weights=(0.5, 0.5), models=models
    )
    await broker.append(broker.channels.status, [write_snapshot(snapshot)])

    async def follows() -> bool:
        await gateway.client.post(URL, content=body(hour=1, country="de"))
        return gateway.processor.seen[-1].route.snapshot == 5

    await until(follows)
    gateway.processor.seen.clear()
    for hour in (1.0, -1.0) * 50:
        answer = await gateway.client.post(URL, content=body(hour=hour, country="fr"))
        assert answer.status_code == 200
    for request in gateway.processor.seen:
        vector = orjson.loads(request.extra)["features"]
        expected = 0.9 if (request.route.arm == "a") == (vector[1] > 0) else 0.1
        assert vector == [1.0, vector[1], 0.0, 1.0]
        assert request.propensity == pytest.approx(expected)
    liked = sum(request.propensity > 0.5 for request in gateway.processor.seen)
    assert liked > 75  # of 100 drawn with probability .9: fewer have a probability of 1e-5
