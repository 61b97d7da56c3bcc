"""A short form of `make chaos`, with eight faults."""

from __future__ import annotations

import random

import pytest

from tests.kill.chaos import KINDS, KINDS_OF_SERVER, chaos, line
from tests.kill.faults import schedule

SEED = 5860


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("broker", "kills"), [("sqlite", 3), ("rabbitmq", 3), ("kafka", 2)])
async def test_nothing_is_lost_twice_or_wrong_under_random_kills(broker: str, kills: int) -> None:
    ended = await chaos(broker, kills, SEED)
    print(line(SEED, kills, [ended]), *map(str, ended.steps), ended.http.tries)  # noqa: T201 - the result of the test
    for client in ended.clients:
        assert (client.lost, client.twice) == (0, 0)
    assert ended.wrong == []
    assert ended.http.accepted


def test_a_seed_always_gives_the_same_schedule_and_a_long_one_has_every_fault() -> None:
    kinds = KINDS + KINDS_OF_SERVER
    steps = schedule(kinds, 200, random.Random(SEED))  # noqa: S311 - not for secrets
    assert schedule(kinds, 200, random.Random(SEED)) == steps  # noqa: S311 - as above
    assert {step.kind for step in steps} == set(kinds)
