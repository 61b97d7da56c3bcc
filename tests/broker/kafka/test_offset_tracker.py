"""The offset tracker, over every order of settling, dying and leaving that hypothesis finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka.offset_tracker import WINDOW, CommittedState, OffsetTracker, pack_state, unpack_state

PARTITION = TopicPartition("t", 0)
LOG = 40
DEFAULT_METADATA_BYTES = 4096  # a broker's default limit


@dataclass(frozen=True)
class Record:
    offset: int


def fetched(start: int, number: int) -> list[Any]:
    return [Record(at) for at in range(max(0, start), min(LOG, max(0, start) + number))]


def committed(state: CommittedState) -> CommittedState:
    """Return a state as it is read back from a commit."""
    return unpack_state(state.offset, pack_state(state))


STEP = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 6)),
    st.tuples(st.just("settle"), st.integers(0, 100)),
    st.tuples(st.sampled_from(["commit", "die", "leave"]), st.just(0)),
)


class World:
    """A partition, its owners' actions, and the expected state."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.state = CommittedState()
        self.tracker = OffsetTracker(PARTITION, self.state)
        self.held: set[int] = set()
        self.settled: set[int] = set()
        self.safe: set[int] = set()  # settled, and committed as settled
        self.touched: set[int] = set()  # delivered, and not known to be settled

    def take(self, number: int) -> None:
        given_out = self.tracker.admit(fetched(self.tracker.position, number))
        self.tracker.extend_reach(self.ahead)
        self.commit()  # before they are delivered
        for record, came_back in given_out:
            assert record.offset not in self.held | self.safe
            assert came_back > 0 or record.offset not in self.touched
            self.held.add(record.offset)
            self.touched.add(record.offset)

    def settle(self, number: int) -> None:
        if self.held:
            offset = sorted(self.held)[number % len(self.held)]
            assert self.tracker.settle(offset)
            self.held.remove(offset)
            self.settled.add(offset)

    def commit(self, _: int = 0, *, leaving: bool = False) -> None:
        if self.tracker.position >= 0:
            self.state, self.safe = committed(self.tracker.state(leaving=leaving)), set(self.settled)

    def die(self, _: int = 0) -> None:
        self.touched -= self.safe
        self.settled = set(self.safe)
        self.tracker, self.held = OffsetTracker(PARTITION, self.state), set()

    def leave(self, _: int) -> None:
        self.commit(leaving=True)
        self.die()


@given(st.lists(STEP, max_size=80), st.integers(0, 3))
def test_no_record_is_lost_and_no_committed_one_is_delivered_again(steps: list[tuple[str, int]], ahead: int) -> None:
    world = World(ahead)
    for action, number in steps:
        getattr(world, action)(number)
    world.die()
    again = {record.offset for record, _ in world.tracker.admit(fetched(world.state.offset, LOG))}
    assert again == set(range(LOG)) - world.safe


def test_after_a_leave_without_held_deliveries_no_record_counts_as_came_back() -> None:
    tracker = OffsetTracker(PARTITION, CommittedState(0))
    for record, _ in tracker.admit(fetched(0, 5)):
        tracker.settle(record.offset)
    tracker.extend_reach(10)
    after = OffsetTracker(PARTITION, committed(tracker.state(leaving=True)))
    assert [(record.offset, came_back) for record, came_back in after.admit(fetched(5, 2))] == [(5, 0), (6, 0)]


def test_each_death_counts_for_the_first_unsettled_record() -> None:
    state = CommittedState(3)
    for deaths in range(4):
        tracker = OffsetTracker(PARTITION, state)
        [(record, came_back)] = tracker.admit(fetched(3, 1))
        assert (record.offset, came_back) == (3, deaths)
        tracker.extend_reach(0)
        state = committed(tracker.state())
    tracker.settle(3)
    assert OffsetTracker(PARTITION, committed(tracker.state())).admit(fetched(4, 1)) == [(Record(4), 0)]


def test_the_metadata_of_a_full_window_fits_into_a_brokers_default_limit() -> None:
    tracker = OffsetTracker(PARTITION, CommittedState(10**12))
    for record, _ in tracker.admit([Record(10**12 + at) for at in range(2 * WINDOW)]):
        if record.offset % 2:
            tracker.settle(record.offset)
    assert tracker.is_window_full
    assert len(pack_state(tracker.state())) < DEFAULT_METADATA_BYTES


def test_foreign_metadata_is_ignored() -> None:
    for text in ("", "1 a b c d", "2 n 1 1 AA==", "1 n 1 1 ###", "x" * 5000):
        assert unpack_state(7, text) == CommittedState(7)
