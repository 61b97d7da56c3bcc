"""A row settles its request's hold once it is safe on the log, and not before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.events import Ended
from broker.header import Request, Route, Status
from broker.ids import new_uid
from broker.messages import SAFE, TOO_LARGE, Message, Outcome
from broker.rows import Rows
from broker.settling import Settling
from tests.broker.test_settling import Noting, delivery

ROUTE = Route(endpoint="e", arm="v1", model="m", version=1)


class Refusing(Noting):
    """Says the same of every publish."""

    outcome = TOO_LARGE

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        return [self.outcome] * len(messages)


class Taking(Refusing):
    outcome = SAFE


@pytest.mark.parametrize(("kind", "acked"), [(Refusing, []), (Taking, [[1]])])
async def test_a_request_whose_row_is_refused_stays_unacked_and_comes_back(
    tmp_path: Path, kind: type[Noting], acked: list[list[int]]
) -> None:
    async with kind(tmp_path / "broker.db") as broker:
        rows, settling = Rows(broker, {}, source="test"), Settling(broker)
        request = Request(ROUTE, new_uid(0), 0, 0, 1.0, None, 0, "", "", "", b"", b"")
        rows.add("e", None, Ended([request], [1], [0], Status.OK), [settling.hold(delivery(1), 1)], None, None)
        await rows.drain()
        await settling.drain()
        assert broker.acked == acked
        assert settling.held == 1 - len(acked)
