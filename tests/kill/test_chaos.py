"""The short form of `make chaos`: eight kills in all."""

from __future__ import annotations

import pytest

from tests.kill.chaos import chaos, line

SEED = 7


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("broker", "kills"), [("sqlite", 3), ("rabbitmq", 3), ("kafka", 2)])
async def test_nothing_is_lost_twice_or_wrong_under_random_kills(broker: str, kills: int) -> None:
    ended = [await chaos(broker, kills, SEED)]
    print(line(SEED, kills, ended), ended[0][1].done)  # noqa: T201 - the line is what the test is for
    client = ended[0][0]
    assert (client.lost, client.twice, client.wrong()) == (0, 0, [])
    assert client.statuses == {"ok": len(client.sent)}
