"""What becomes of a queue client's message: where it goes, and how probable that was."""

from __future__ import annotations

from broker.channels import Channels
from broker.declared import endpoint_declared
from broker.endpoint import read_endpoint
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
