"""Members of one installation whose settings differ: the right key, processes that draw nothing by key, messages."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from broker.errors import Unavailable
from broker.records.agreement import Agreement, write_agreement
from broker.records.status import SILENT_AFTER_S, Announcement
from router.state.members import MemberTable

OWN = Agreement(key="mine", is_key_given=False, started_us=100, limit_requests=10)


class Clock:
    """Time that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def announced(instance: str = "other", state: str = "ready", part: str = "gateway", **changed: Any) -> Announcement:
    agreement = dataclasses.replace(OWN, **changed)
    return Announcement(
        instance=instance,
        part=part,  # type: ignore[arg-type]
        state=state,  # type: ignore[arg-type]
        at_us=0,
        full=write_agreement(agreement),
    )


def members(clock: Clock | None = None, **changed: Any) -> MemberTable:
    made = MemberTable(clock or Clock())
    made.introduce("me", dataclasses.replace(OWN, **changed))
    return made


def test_members_that_agree_say_nothing() -> None:
    me = members()
    me.fold(announced(started_us=1))
    assert me.compare() == {}
    me.check_key()


@pytest.mark.parametrize(
    ("mine", "theirs", "refuses"),
    [
        ({}, {"started_us": 99}, True),
        ({}, {"started_us": 101}, False),
        ({}, {"started_us": 100}, False),  # of two that started at once the first by name: "me" before "other"
        ({}, {"started_us": 101, "is_key_given": True}, True),
        ({"is_key_given": True}, {"started_us": 99}, False),
        ({"is_key_given": True}, {"started_us": 99, "is_key_given": True}, False),
    ],
)
def test_a_process_with_another_generated_key_draws_nothing_by_key(
    mine: dict[str, Any], theirs: dict[str, Any], refuses: bool
) -> None:
    me = members(**mine)
    me.fold(announced(key="theirs", **theirs))
    assert me.compare() == {"secrets.assignment": "secrets.assignment does not agree: other has another one"}
    assert bool(me.refusal) is refuses
    if refuses:
        with pytest.raises(
            Unavailable, match="other has another assignment key, which is the right one: give all of them"
        ):
            me.check_key()


def test_of_two_members_one_refuses_and_one_does_not() -> None:
    for first, second in ((1, 2), (2, 1), (1, 1)):
        one, two = MemberTable(Clock()), MemberTable(Clock())
        one.introduce("a", dataclasses.replace(OWN, started_us=first))
        two.introduce("b", dataclasses.replace(OWN, key="theirs", started_us=second))
        one.fold(announced("b", key="theirs", started_us=second))
        two.fold(announced("a", started_us=first))
        assert sorted([bool(one.refusal), bool(two.refusal)]) == [False, True]


def test_a_process_that_starts_again_beside_an_older_one_with_its_key_still_counts() -> None:
    me = members()
    me.fold(announced("my-router", part="router", started_us=1))
    me.fold(announced("theirs", key="theirs", started_us=2))
    me.check_key()


def test_it_is_refused_as_soon_as_it_is_heard() -> None:
    me = members()
    me.fold(announced(key="theirs", started_us=1))
    with pytest.raises(Unavailable):
        me.check_key()


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_member_that_is_gone_no_longer_counts(is_silent: bool) -> None:
    clock = Clock()
    me = members(clock)
    me.fold(announced(key="theirs", started_us=1))
    assert me.compare()
    if is_silent:
        clock.now_s = SILENT_AFTER_S + 1.0
    else:
        me.fold(announced(state="stopped"))
    assert me.compare() == {}
    me.check_key()


def test_a_heartbeat_without_the_full_text_keeps_a_member_alive() -> None:
    clock = Clock()
    me = members(clock)
    me.fold(announced(key="theirs", started_us=1))
    clock.now_s = SILENT_AFTER_S - 1.0
    me.fold(Announcement(instance="other", part="gateway", state="ready", at_us=0))
    clock.now_s = SILENT_AFTER_S + 1.0
    assert me.compare()


def test_limits_that_differ_are_reported_and_stop_nothing() -> None:
    me = members()
    me.fold(announced(limit_requests=20, started_us=1))
    text = "broker.limits.requests does not agree: other has 20, and 10 here"
    assert me.compare() == {"broker.limits.requests": text}
    me.check_key()


def test_a_process_without_settings_compares_nothing() -> None:
    me = MemberTable(Clock())
    me.fold(announced(key="theirs"))
    assert me.compare() == {}
    me.check_key()
