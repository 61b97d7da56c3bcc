"""Machines whose clocks differ agree on one time, and report the wrong clocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import pytest

from broker.delivery.clocks import ALLOWED_S, BOUND_S, MEASURED_WITHIN_S, Clocks
from broker.messages import Record
from broker.protocol.ids import is_over, now_us, shift_clock, wall_us
from broker.records.status import Announcement, write_announcement

START_US = 1_800_000_000_000_000


@dataclass
class Machines:
    """Machines that receive each other's heartbeats `delay_s` late; each clock is some seconds ahead."""

    ahead_s: dict[str, float]
    delay_s: float = 0.1
    at_s: float = 0.0
    clocks: dict[str, Clocks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for host, ahead_s in self.ahead_s.items():
            self.clocks[host] = Clocks(host, wall_us=partial(self.wall_us, ahead_s), clock=lambda: self.at_s)

    def wall_us(self, ahead_s: float) -> int:
        return START_US + int((self.at_s + ahead_s) * 1e6)

    def run(self, seconds: float, every_s: float = 2.0) -> None:
        """Let all machines send a heartbeat every `every_s` seconds."""
        for _ in range(round(seconds / every_s)):
            written = {host: self.wall_us(ahead_s) for host, ahead_s in self.ahead_s.items()}
            self.at_s += self.delay_s
            for clocks in self.clocks.values():
                for host, at_us in written.items():
                    clocks.observe(host, at_us)
            self.at_s += every_s - self.delay_s

    def times_s(self) -> list[float]:
        """Return the error of each machine's installation time, in seconds."""
        return [self.ahead_s[host] + clocks.offset_s for host, clocks in self.clocks.items()]


@pytest.mark.parametrize("ahead_s", [-600.0, 600.0, 3600.0, -3600.0])
def test_two_machines_with_different_clocks_agree(ahead_s: float) -> None:
    machines = Machines({"a": 0.0, "b": ahead_s})
    machines.run(20)
    one, other = machines.times_s()
    assert one == pytest.approx(other, abs=1.0)


def test_the_one_wrong_clock_of_three_is_corrected() -> None:
    machines = Machines({"a": 0.0, "b": 0.3, "c": 3600.0})
    machines.run(20)
    assert machines.times_s() == pytest.approx([0.0, 0.3, 0.3], abs=1.0)
    assert [list(clocks.troubles()) for clocks in machines.clocks.values()] == [
        ["the clock of machine c is 3600 s ahead of the others (Millrace corrects for it): set it right"]
    ] * 3
    assert machines.clocks["c"].own_troubles()
    assert not machines.clocks["a"].own_troubles()


def test_clocks_that_agree_are_not_corrected_even_if_heartbeats_are_late() -> None:
    machines = Machines({"a": 0.0, "b": 0.4, "c": -0.4}, delay_s=1.0)
    machines.run(60)
    assert [clocks.offset_s for clocks in machines.clocks.values()] == [0.0, 0.0, 0.0]
    assert not any(clocks.troubles() for clocks in machines.clocks.values())


def test_old_heartbeats_that_are_read_at_the_start_are_ignored() -> None:
    machines = Machines({"a": 0.0, "b": 0.0})
    for age_s in range(60, 0, -2):
        machines.clocks["a"].observe("b", machines.wall_us(-age_s))
    assert machines.clocks["a"].offset_s == 0.0
    machines.run(20)
    assert machines.clocks["a"].offset_s == 0.0


def test_a_clock_with_a_huge_error_is_reported_and_not_followed() -> None:
    machines = Machines({"a": 0.0, "b": 0.0, "c": BOUND_S + 100.0})
    machines.run(20)
    assert machines.clocks["a"].offset_s == 0.0
    assert "too much for Millrace to correct" in machines.clocks["a"].troubles()[0]
    assert machines.clocks["c"].is_lost
    assert not machines.clocks["a"].is_lost


def test_a_clock_that_was_set_right_is_no_longer_corrected() -> None:
    machines = Machines({"a": 0.0, "b": 900.0, "c": 0.0})
    machines.run(20)
    assert machines.clocks["b"].offset_s == pytest.approx(-900.0, abs=1.0)
    machines.ahead_s["b"] = 0.0
    machines.clocks["b"] = Clocks("b", wall_us=lambda: machines.wall_us(0.0), clock=lambda: machines.at_s)
    machines.run(40)
    assert machines.clocks["b"].offset_s == 0.0
    assert not any(clocks.troubles() for clocks in machines.clocks.values())


def test_machines_that_are_silent_are_forgotten() -> None:
    machines = Machines({"a": 0.0, "b": 900.0})
    machines.run(20)
    machines.at_s += 60.0
    machines.clocks["a"].observe("c", machines.wall_us(0.0))
    assert set(machines.clocks["a"].differences()) == {"a"}


def test_a_heartbeat_names_its_machine() -> None:
    clocks = Clocks("here")
    announcement = Announcement(instance="g", part="gateway", state="ready", at_us=wall_us(), host="there")
    clocks.fold(Record(0, write_announcement(announcement), {}))
    clocks.fold(Record(1, b"nonsense", {}))
    assert clocks.offset_s == 0.0


def test_now_is_the_corrected_clock_of_the_machine() -> None:
    try:
        shift_clock(3_600_000_000)
        assert now_us() - wall_us() == pytest.approx(3_600_000_000, abs=1_000_000)
    finally:
        shift_clock(0)
    assert abs(now_us() - wall_us()) < ALLOWED_S * 1e6


def test_after_a_machine_has_left_old_and_new_processes_have_the_same_time() -> None:
    """A process that starts later has never received a heartbeat of the machine that left."""
    machines = Machines({"a": 0.0, "b": 0.0, "c": -60.0, "d": -60.0})
    machines.run(20)
    assert machines.clocks["a"].offset_s == pytest.approx(-60.0, abs=1.0)
    for gone in ("c", "d"):
        del machines.ahead_s[gone], machines.clocks[gone]
    machines.run(30)
    machines.clocks["a, started later"] = Clocks(
        "a", wall_us=lambda: machines.wall_us(0.0), clock=lambda: machines.at_s
    )
    machines.run(30)
    assert [clocks.offset_s for clocks in machines.clocks.values()] == [0.0, 0.0, 0.0]


def test_a_machine_that_is_left_alone_has_its_own_time_again() -> None:
    machines = Machines({"a": 0.0, "b": -60.0})
    machines.run(20)
    assert machines.clocks["a"].offset_s == pytest.approx(-60.0, abs=1.0)
    del machines.ahead_s["b"], machines.clocks["b"]
    machines.run(30)
    assert machines.clocks["a"].offset_s == 0.0


def test_old_heartbeats_of_many_machines_that_are_read_slowly_measure_nothing() -> None:
    """A process that starts reads minutes of the log, while its model is loaded beside it."""
    machines = Machines({"a": 0.0})
    clocks = machines.clocks["a"]
    for age_s in range(300, 100, -2):
        for number in range(12):
            clocks.observe(f"dead{number}", machines.wall_us(-age_s))
        machines.at_s += 0.02
    assert clocks.offset_s == 0.0
    assert not clocks.differences().keys() - {"a"}


def test_a_machine_with_many_processes_is_measured() -> None:
    machines = Machines({"a": 0.0})
    clocks = machines.clocks["a"]
    for _ in range(10):
        for _ in range(100):
            machines.at_s += 0.02
            clocks.observe("b", machines.wall_us(600.0))
    assert clocks.differences()["b"] - clocks.differences()["a"] == pytest.approx(600.0, abs=1.0)


def test_a_machine_with_one_heartbeat_is_being_measured_only_for_a_moment() -> None:
    machines = Machines({"a": 0.0, "b": 60.0})
    clocks = machines.clocks["a"]
    found = [clocks.is_measuring]
    clocks.observe("b", machines.wall_us(60.0))
    found.append(clocks.is_measuring)
    machines.at_s += MEASURED_WITHIN_S + 0.1  # it is gone
    found.append(clocks.is_measuring)
    machines.run(4)
    found.append(clocks.is_measuring)
    assert found == [False, True, False, False]


def test_the_age_of_a_heartbeat_is_measured_by_the_clock_of_its_machine() -> None:
    machines = Machines({"a": 0.0, "b": 60.0})
    clocks = machines.clocks["a"]
    assert clocks.age_s("a", machines.wall_us(-30.0)) == pytest.approx(30.0)
    assert clocks.age_s("a", machines.wall_us(30.0)) == 0.0
    assert clocks.age_s("", 0) == 0.0
    machines.run(20)
    assert clocks.age_s("b", machines.wall_us(60.0 - 30.0)) == pytest.approx(30.0, abs=1.0)


def test_a_deadline_from_before_a_correction_is_compared_with_the_former_time() -> None:
    try:
        shift_clock(60_000_000)
        now = now_us()
        assert not is_over(now - 1_000_000, now)
        assert is_over(now - 61_000_000, now)
        assert not is_over(0, now)
        shift_clock(0)
        now = now_us()
        assert is_over(now - 1_000_000, now)  # the current time is the earlier one
    finally:
        shift_clock(0)


def test_a_deadline_from_before_several_corrections_is_compared_with_the_earliest_time() -> None:
    try:
        deadline = now_us() + 15_000_000
        for shift_us in (30_000_000, 60_000_000):
            shift_clock(shift_us)
        assert not is_over(deadline, now_us())
        assert is_over(deadline, now_us() + 16_000_000)
    finally:
        shift_clock(0)


def test_a_stream_of_new_machines_does_not_delay_a_start() -> None:
    machines = Machines({"a": 0.0})
    clocks = machines.clocks["a"]
    for number in range(20):
        clocks.observe(f"pod{number}", machines.wall_us(0.0))
        machines.at_s += 1.0
    assert not clocks.is_measuring
