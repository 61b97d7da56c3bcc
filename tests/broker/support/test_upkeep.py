"""Channels that a process declared are looked at in turn, and made again when they are gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker.channels import NO_LIMITS, Limits
from broker.errors import Refused, Unreachable
from broker.support.upkeep import AT_ONCE, Upkeep


class Channels:
    """Channels that can vanish, and a broker that can refuse them."""

    def __init__(self) -> None:
        self.there: dict[str, Limits] = {}
        self.looked: list[list[str]] = []
        self.refused = ""
        self.is_away = False
        self.upkeep = Upkeep(self.missing, self.make)

    async def missing(self, channels: Sequence[str]) -> list[str]:
        if self.is_away:
            raise Unreachable("no broker answers")
        self.looked.append(list(channels))
        return [channel for channel in channels if channel not in self.there]

    async def make(self, channel: str, limits: Limits) -> None:
        if self.refused:
            raise Refused(self.refused)
        self.there[channel] = limits

    def declare(self, *names: str, limits: Limits = NO_LIMITS) -> None:
        for name in names:
            self.there[name] = limits
            self.upkeep.note(name, limits)


@pytest.fixture
def channels(monkeypatch: pytest.MonkeyPatch) -> Channels:
    monkeypatch.setattr("broker.support.upkeep.SETTLE_S", 0.0)
    return Channels()


async def test_what_is_gone_is_made_again_with_its_limits(channels: Channels) -> None:
    channels.declare("a", limits=Limits(messages=7))
    channels.declare("b")
    del channels.there["a"]
    await channels.upkeep.look()
    assert channels.there == {"a": Limits(messages=7), "b": NO_LIMITS}


async def test_a_look_takes_some_and_the_next_one_the_others(channels: Channels) -> None:
    names = [f"q{at}" for at in range(AT_ONCE + 10)]
    channels.declare(*names)
    for _ in range(2):
        await channels.upkeep.look()
    first, second = channels.looked
    assert first == names[:AT_ONCE]
    assert second[:10] == names[AT_ONCE:]


async def test_a_suspect_is_looked_at_first_and_a_stranger_never(channels: Channels) -> None:
    channels.declare(*[f"q{at}" for at in range(AT_ONCE + 10)])
    channels.upkeep.suspect(["q255", "a strangers queue"])
    await channels.upkeep.look()
    assert channels.looked == [["q255"]]


async def test_what_is_refused_is_named_until_it_is_there_again(channels: Channels) -> None:
    channels.declare("a", "b")
    channels.there.clear()
    channels.refused = "it is of another type"
    await channels.upkeep.look()
    assert channels.upkeep.troubles == {"a": "it is of another type", "b": "it is of another type"}
    channels.refused = ""
    await channels.upkeep.look()
    assert (channels.upkeep.troubles, set(channels.there)) == ({}, {"a", "b"})


async def test_what_was_let_go_stays_away(channels: Channels) -> None:
    channels.declare("a")
    channels.there.clear()
    channels.upkeep.suspect(["a"])
    channels.upkeep.forget("a")
    await channels.upkeep.look()
    assert channels.there == {}


async def test_a_broker_that_is_away_is_looked_at_later(channels: Channels) -> None:
    channels.declare("a")
    channels.there.clear()
    channels.is_away = True
    await channels.upkeep.look()
    channels.is_away = False
    await channels.upkeep.look()
    assert set(channels.there) == {"a"}


async def test_what_another_process_has_made_again_is_named_no_more(channels: Channels) -> None:
    channels.declare("a")
    channels.there.clear()
    channels.refused = "permission denied"
    await channels.upkeep.look()
    channels.there["a"] = NO_LIMITS
    await channels.upkeep.look()
    assert channels.upkeep.troubles == {}
