"""Declared channels are checked in turn, and made again if they are gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker.channels import NO_LIMITS, Limits
from broker.errors import Refused, Unreachable
from broker.support.upkeep import CHANNELS_A_CHECK, Upkeep


class Channels:
    """Channels that can be deleted, and a broker that can refuse them."""

    def __init__(self) -> None:
        self.there: dict[str, Limits] = {}
        self.looked: list[list[str]] = []
        self.refused = ""
        self.is_away = False
        self.upkeep = Upkeep(self.missing, self.make, settle_s=0.0)

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
def channels() -> Channels:
    return Channels()


async def test_a_deleted_channel_is_made_again_with_its_limits(channels: Channels) -> None:
    channels.declare("a", limits=Limits(messages=7))
    channels.declare("b")
    del channels.there["a"]
    await channels.upkeep.check()
    assert channels.there == {"a": Limits(messages=7), "b": NO_LIMITS}


async def test_each_check_covers_the_next_channels_in_turn(channels: Channels) -> None:
    names = [f"q{at}" for at in range(CHANNELS_A_CHECK + 10)]
    channels.declare(*names)
    for _ in range(2):
        await channels.upkeep.check()
    first, second = channels.looked
    assert first == names[:CHANNELS_A_CHECK]
    assert second[:10] == names[CHANNELS_A_CHECK:]


async def test_suspected_channels_are_checked_first_and_unknown_ones_never(channels: Channels) -> None:
    channels.declare(*[f"q{at}" for at in range(CHANNELS_A_CHECK + 10)])
    channels.upkeep.suspect(["q255", "a strangers queue"])
    await channels.upkeep.check()
    assert channels.looked == [["q255"]]


async def test_a_refused_channel_is_a_trouble_until_it_exists_again(channels: Channels) -> None:
    channels.declare("a", "b")
    channels.there.clear()
    channels.refused = "it is of another type"
    await channels.upkeep.check()
    assert channels.upkeep.troubles == {"a": "it is of another type", "b": "it is of another type"}
    channels.refused = ""
    await channels.upkeep.check()
    assert (channels.upkeep.troubles, set(channels.there)) == ({}, {"a", "b"})


async def test_a_forgotten_channel_stays_deleted(channels: Channels) -> None:
    channels.declare("a")
    channels.there.clear()
    channels.upkeep.suspect(["a"])
    channels.upkeep.forget("a")
    await channels.upkeep.check()
    assert channels.there == {}


async def test_a_check_without_a_broker_is_repeated_later(channels: Channels) -> None:
    channels.declare("a")
    channels.there.clear()
    channels.is_away = True
    await channels.upkeep.check()
    channels.is_away = False
    await channels.upkeep.check()
    assert set(channels.there) == {"a"}


async def test_a_channel_that_another_process_made_again_is_no_trouble(channels: Channels) -> None:
    channels.declare("a")
    channels.there.clear()
    channels.refused = "permission denied"
    await channels.upkeep.check()
    channels.there["a"] = NO_LIMITS
    await channels.upkeep.check()
    assert channels.upkeep.troubles == {}
