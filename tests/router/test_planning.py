"""What becomes of a queue client's message: where it goes, and how probable that was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.agreement import Agreement, write_agreement
from broker.channels import Channels
from broker.declared import endpoint_declared
from broker.endpoint import read_endpoint
from broker.errors import Unavailable
from broker.ids import derived_uid, now_us
from broker.messages import NO_HEADERS, Delivery, Message, Record
from broker.status import Announcement, write_announcement
from router.planning import plan
from router.view import View

CHANNELS = Channels()
SHARES = {"a": 0.7, "b": 0.2, "c": 0.1}


def test_a_request_of_a_queue_client_says_how_probable_its_arm_was() -> None:
    view = View(b"secret")
    said = {"endpoint": "e", "arms": {arm: f"m-{arm}@1" for arm in SHARES}, "policy": {"split": SHARES}}
    view.fold_declared(Record(0, endpoint_declared(read_endpoint(said, source="test"), "test"), NO_HEADERS))
    for place, arm in enumerate(SHARES):
        ready = Announcement(instance=arm, part="replica", state="ready", at_us=now_us(), model=f"m-{arm}", version=1)
        view.fold_status(Record(place, write_announcement(ready), NO_HEADERS))
    drawn = set()
    for number in range(100):
        delivery = Delivery(Message(queue=CHANNELS.requests("e"), body=b"{}"), number, 0, None)
        uid = derived_uid(str(number).encode())
        planned = plan(delivery, uid, now_us(), endpoint="e", view=view, channels=CHANNELS, answers="answers")
        request = planned.request
        assert (request.uid, request.route.mask, request.route.snapshot) == (uid, 0b111, 0)
        drawn.add((request.route.arm, request.route.model, round(request.propensity, 12)))
    assert drawn == {(arm, f"m-{arm}", share) for arm, share in SHARES.items()}


def test_a_request_with_a_key_is_refused_where_another_assignment_key_counts() -> None:
    view = View(b"secret")
    own = Agreement(key="mine", is_key_given=False, started_us=2)
    view.members.introduce("router-test", own)
    said = {"endpoint": "e", "arms": {"a": "m@1"}, "key": "header", "policy": {"split": ["a"], "sticky": True}}
    view.fold_declared(Record(0, endpoint_declared(read_endpoint(said, source="test"), "test"), NO_HEADERS))
    older = Announcement(
        instance="router-older", part="router", state="ready", at_us=now_us(),
        full=write_agreement(replace(own, key="theirs", started_us=1)),
    )  # fmt: skip
    view.fold_status(Record(0, write_announcement(older), NO_HEADERS))

    def planned(headers: dict[str, Any]) -> None:
        message = Message(queue=CHANNELS.requests("e"), body=b"{}", headers=headers)
        uid = derived_uid(b"1")
        plan(Delivery(message, 1, 0, None), uid, now_us(), endpoint="e", view=view, channels=CHANNELS, answers="a")

    planned({})
    with pytest.raises(Unavailable, match="router-older has another assignment key"):
        planned({"key": "ann"})
