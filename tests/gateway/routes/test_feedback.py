"""Feedback must match the declared rewards of its endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from broker.records.feedback import read_feedback
from tests.gateway.infer_requests import error_of
from tests.gateway.running_gateway import Gateway

UID = "01890a5d-ac96-774b-bcce-b302099a8057"
REWARDS = {
    "clicked": {"default": 0},
    "rating": {"type": "unit", "default": "skip"},
    "right": {"from": "truth", "score": "argmax"},
}
URL = "/v2/models/shop/feedback"


async def declare(gateway: Gateway) -> None:
    await gateway.declare(endpoint="shop", arms={"a": "double@1"}, feedback={"rewards": REWARDS})
    await gateway.until("/v2/models/shop/ready", 200)


async def given(gateway: Gateway, **feedback: Any) -> Any:
    """Send feedback and return the records on the log."""
    answer = await gateway.client.post(URL, json={"request_id": UID, **feedback})
    assert answer.status_code == 202, answer.text
    (record,) = await gateway.broker.read(gateway.broker.channels.events("shop"), 0).read(10)
    return read_feedback(record)


@pytest.mark.parametrize(("flag", "number"), [(True, 1.0), (False, 0.0)])
async def test_true_and_false_are_numbers_for_a_reward_of_type_bool(
    gateway: Gateway, flag: bool, number: float
) -> None:
    await declare(gateway)
    assert (await given(gateway, values={"clicked": flag, "rating": 0.5})).values == {"clicked": number, "rating": 0.5}


async def test_an_integer_names_an_item(gateway: Gateway) -> None:
    await declare(gateway)
    assert (await given(gateway, values={"clicked": 1}, item=7)).item == "7"


@pytest.mark.parametrize(
    ("feedback", "named"),
    [
        ({"values": {"cliked": 1}}, "no reward 'cliked': did you mean 'clicked'?"),
        ({"values": {"clicked": 1, "bought": 1}}, "no reward 'bought': known rewards: clicked, rating"),
        ({"values": {"right": 1}}, "reward 'right' is scored by the truth"),
        ({"values": {"rating": True}}, "values.rating is True"),
        ({"values": {"clicked": 1}, "item": True}, "item is not a string"),
        ({"values": {"clicked": 1}, "item": 1.5}, "item is not a string"),
    ],
)
async def test_an_undeclared_reward_is_400_and_names_the_nearest_one(
    gateway: Gateway, feedback: dict[str, Any], named: str
) -> None:
    await declare(gateway)
    answer = await gateway.client.post(URL, json={"request_id": UID, **feedback})
    assert answer.status_code == 400
    assert named in error_of(answer)


async def test_an_endpoint_without_rewards_takes_any_number_by_name(gateway: Gateway) -> None:
    for values, code in (({"anything": 1}, 202), ({"anything": True}, 400)):
        answer = await gateway.client.post("/v2/models/double/feedback", json={"request_id": UID, "values": values})
        assert answer.status_code == code
