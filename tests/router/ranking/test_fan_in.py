"""A wait ends with the answers of all arms, or with those that have come when its time is over."""

from __future__ import annotations

import pytest

from broker.errors import Expired, MillraceError, QueueFull, Unavailable
from broker.protocol.header import Answer, Status
from router.ranking.fan_in import FanIn

UID = b"u" * 16


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def answer(arm: str, status: Status = Status.OK, *, uid: bytes = UID, body: bytes = b"") -> Answer:
    return Answer(uid=uid, status=status, arm=arm, version=1, body=body)


async def test_it_ends_with_the_last_arm_and_the_first_answer_of_each_counts() -> None:
    gathering = FanIn()
    future = gathering.expect(UID, ("v1", "v2"), wait_s=1.0, allowed_s=5.0)
    assert gathering.take(answer("v2", body=b"first"))
    assert not gathering.take(answer("v2", body=b"second"))
    assert not gathering.take(answer("v3"))
    assert not gathering.take(answer("v1", uid=b"x" * 16))
    assert not future.done()
    assert gathering.take(answer("v1"))
    assert await future == {"v1": answer("v1"), "v2": answer("v2", body=b"first")}
    assert not gathering.take(answer("v1"))
    assert len(gathering) == 0


async def test_a_slow_arm_is_left_out_when_a_result_is_there() -> None:
    clock = Clock()
    gathering = FanIn(clock)
    future = gathering.expect(UID, ("v1", "v2"), wait_s=1.0, allowed_s=5.0)
    gathering.take(answer("v1"))
    clock.now_s += 0.99
    gathering.sweep()
    assert not future.done()
    clock.now_s += 0.01
    gathering.sweep()
    by_arm = future.result()
    assert by_arm["v1"] == answer("v1")
    assert isinstance(by_arm["v2"], Expired)
    assert not gathering.take(answer("v2"))


async def test_without_a_result_it_waits_on_for_the_first_one() -> None:
    clock = Clock()
    gathering = FanIn(clock)
    future = gathering.expect(UID, ("v1", "v2", "v3"), wait_s=1.0, allowed_s=5.0)
    gathering.take(answer("v1", Status.FAILED))
    clock.now_s += 3.0
    gathering.sweep()
    assert not future.done()
    gathering.take(answer("v2"))
    by_arm = future.result()
    assert [type(by_arm[arm]) for arm in ("v1", "v2", "v3")] == [Answer, Answer, Expired]


async def test_a_wait_ends_with_the_answers_that_have_come_when_its_time_is_over() -> None:
    clock = Clock()
    gathering = FanIn(clock)
    future = gathering.expect(UID, ("v1", "v2"), wait_s=9.0, allowed_s=5.0)
    gathering.take(answer("v1", Status.INVALID))
    clock.now_s += 5.0
    gathering.sweep()
    by_arm = future.result()
    assert by_arm["v1"] == answer("v1", Status.INVALID)
    assert "5000 ms" in str(by_arm["v2"])


async def test_an_arm_that_was_refused_is_not_waited_for() -> None:
    gathering = FanIn()
    future = gathering.expect(UID, ("v1", "v2"), wait_s=1.0, allowed_s=5.0)
    full: MillraceError = QueueFull("full")
    assert gathering.waits_for(UID, "v1")
    assert gathering.refuse(UID, "v1", full)
    assert not gathering.waits_for(UID, "v1")
    gathering.take(answer("v2"))
    assert future.result() == {"v1": full, "v2": answer("v2")}


async def test_a_uid_that_comes_twice_is_waited_for_once_and_both_hear() -> None:
    gathering = FanIn()
    one = gathering.expect(UID, ("v1",), wait_s=1.0, allowed_s=5.0)
    two = gathering.expect(UID, ("v1",), wait_s=1.0, allowed_s=5.0)
    left = gathering.expect(UID, ("v1",), wait_s=1.0, allowed_s=5.0)
    assert len(gathering) == 1
    left.cancel()
    gathering.take(answer("v1"))
    assert one.result() == two.result() == {"v1": answer("v1")}


async def test_waits_that_end_with_an_error_end_all_together() -> None:
    gathering = FanIn()
    futures = [gathering.expect(bytes([n]) * 16, ("v1",), wait_s=1.0, allowed_s=5.0) for n in range(3)]
    gathering.forget(bytes([0]) * 16)
    gathering.fail(bytes([1]) * 16, Unavailable("one"))
    gathering.fail_all(Unavailable("all"))
    assert not futures[0].done()
    for future, text in zip(futures[1:], ("one", "all"), strict=True):
        with pytest.raises(Unavailable, match=text):
            future.result()
