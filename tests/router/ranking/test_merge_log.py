"""A merge record is written for as long as there is hope; one that is lost is counted, and its source comes back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.channels import Channels
from broker.delivery.ack_tracker import AckTracker
from broker.messages import FULL, NO_QUEUE, TOO_LARGE, UNKNOWN, Delivery, Message, Outcome
from broker.protocol.ids import new_uid
from broker.records.merges import TYPE, Merge
from broker.sqlite.adapter import SqliteBroker
from router.ranking.merge_log import MergeLog
from tests.arms import merges

MERGE = Merge(
    uid=new_uid(0),
    key="",
    policy="interleave",
    snapshot=0,
    mask=3,
    method="team_draft",
    rankers=("v1",),
    used=("v1",),
    items=("a",),
    ranks=((1,),),
    credits=((0.0,),),
    accepted_us=1,
    at_us=2,
)


class Answering(SqliteBroker):
    """Refuses the first records, and takes the next one."""

    says: Outcome = FULL
    times = 2

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if self.times > 0 and messages[0].headers.get("cloudEvents_type") == TYPE:
            self.times -= 1
            return [self.says] * len(messages)
        return await super().publish(messages)


@pytest.mark.parametrize("says", [FULL, UNKNOWN, NO_QUEUE], ids=str)
async def test_a_record_is_tried_again_and_its_hold_is_settled_once_it_is_safe(tmp_path: Path, says: Outcome) -> None:
    async with Answering(tmp_path / "broker.db", Channels()) as broker:
        broker.says = says
        settling, lost = AckTracker(broker), list[str]()
        log = MergeLog(broker, lost=lost.append, patience_s=30.0)
        hold = settling.hold(Delivery(Message(queue="q", body=b""), 1, 0, None), 2)
        log.put("e", MERGE, hold)
        await log.drain()
        assert (hold.left, lost, broker.times) == (1, [], 0)
        assert await merges(broker, "e", 1) == [MERGE]


@pytest.mark.parametrize(("says", "patience_s"), [(TOO_LARGE, 30.0), (FULL, 0.0), (NO_QUEUE, 0.0)], ids=str)
async def test_a_record_that_is_lost_is_counted_and_its_hold_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, says: Outcome, patience_s: float
) -> None:
    async with Answering(tmp_path / "broker.db", Channels()) as broker:
        broker.says, broker.times = says, 1_000
        settling, lost = AckTracker(broker), list[str]()
        log = MergeLog(broker, lost=lost.append, patience_s=patience_s)
        hold = settling.hold(Delivery(Message(queue="q", body=b""), 1, 0, None), 1)
        for _ in range(2):
            log.put("e", MERGE, hold)
            await log.drain()
        assert (hold.left, lost) == (1, [str(says)] * 2)
        assert caplog.text.count("a merge record was not taken") == 1
