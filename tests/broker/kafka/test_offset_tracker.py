"""A partition's book-keeping, over every order of settling, dying and leaving that hypothesis thinks of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka.offset_tracker import WINDOW, CommittedState, OffsetTracker, pack_state, unpack_state

PARTITION = TopicPartition("t", 0)
LOG = 40
DEFAULT_METADATA_BYTES = 4096  # what a broker allows where nobody has set anything


@dataclass(frozen=True)
class Record:
    offset: int


def fetched(start: int, number: int) -> list[Any]:
    return [Record(at) for at in range(max(0, start), min(LOG, max(0, start) + number))]


def committed(state: CommittedState) -> CommittedState:
    """Send a state through a commit."""
    return unpack_state(state.offset, pack_state(state))


STEP = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 6)),
    st.tuples(st.just("settle"), st.integers(0, 100)),
    st.tuples(st.sampled_from(["commit", "die", "leave"]), st.just(0)),
)


class World:
    """A partition, what its owners do to it, and what is to be true."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.state = CommittedState()
        self.claim = OffsetTracker(PARTITION, self.state)
        self.held: set[int] = set()
        self.settled: set[int] = set()
        self.safe: set[int] = set()  # settled, and committed as settled
        self.touched: set[int] = set()  # handed out, and not known to be settled

    def take(self, number: int) -> None:
        given_out = self.claim.admit(fetched(self.claim.position, number))
        self.claim.extend_reach(self.ahead)
        self.commit()  # before anybody sees them
        for record, came_back in given_out:
            assert record.offset not in self.held | self.safe
            assert came_back > 0 or record.offset not in self.touched
            self.held.add(record.offset)
            self.touched.add(record.offset)

    def settle(self, number: int) -> None:
        if self.held:
            offset = sorted(self.held)[number % len(self.held)]
            assert self.claim.settle(offset)
            self.held.remove(offset)
            self.settled.add(offset)

    def commit(self, _: int = 0, *, leaving: bool = False) -> None:
        if self.claim.position >= 0:
            self.state, self.safe = committed(self.claim.state(leaving=leaving)), set(self.settled)

    def die(self, _: int = 0) -> None:
        self.touched -= self.safe
        self.settled = set(self.safe)
        self.claim, self.held = OffsetTracker(PARTITION, self.state), set()

    def leave(self, _: int) -> None:
        self.commit(leaving=True)
        self.die()


@given(st.lists(STEP, max_size=80), st.integers(0, 3))
def test_nothing_is_lost_and_nothing_committed_as_settled_comes_again(steps: list[tuple[str, int]], ahead: int) -> None:
    world = World(ahead)
    for what, number in steps:
        getattr(world, what)(number)
    world.die()
    again = {record.offset for record, _ in world.claim.admit(fetched(world.state.offset, LOG))}
    assert again == set(range(LOG)) - world.safe


def test_who_leaves_with_nothing_in_hand_leaves_nothing_that_came_back() -> None:
    claim = OffsetTracker(PARTITION, CommittedState(0))
    for record, _ in claim.admit(fetched(0, 5)):
        claim.settle(record.offset)
    claim.extend_reach(10)
    after = OffsetTracker(PARTITION, committed(claim.state(leaving=True)))
    assert [(record.offset, came_back) for record, came_back in after.admit(fetched(5, 2))] == [(5, 0), (6, 0)]


def test_each_death_counts_for_the_one_at_the_head() -> None:
    state = CommittedState(3)
    for deaths in range(4):
        claim = OffsetTracker(PARTITION, state)
        [(record, came_back)] = claim.admit(fetched(3, 1))
        assert (record.offset, came_back) == (3, deaths)
        claim.extend_reach(0)
        state = committed(claim.state())
    claim.settle(3)
    assert OffsetTracker(PARTITION, committed(claim.state())).admit(fetched(4, 1)) == [(Record(4), 0)]


def test_a_full_window_fits_what_brokers_allow() -> None:
    claim = OffsetTracker(PARTITION, CommittedState(10**12))
    for record, _ in claim.admit([Record(10**12 + at) for at in range(2 * WINDOW)]):
        if record.offset % 2:
            claim.settle(record.offset)
    assert claim.is_window_full
    assert len(pack_state(claim.state())) < DEFAULT_METADATA_BYTES


def test_metadata_of_others_says_nothing() -> None:
    for text in ("", "1 a b c d", "2 n 1 1 AA==", "1 n 1 1 ###", "x" * 5000):
        assert unpack_state(7, text) == CommittedState(7)
