"""The trackers of a subscription's partitions through rebalances."""

from __future__ import annotations

import pytest

from broker.kafka.assignment import Assignment
from broker.kafka.deletion import TopicDeleted, poll_time
from broker.kafka.offset_tracker import WINDOW, CommittedState
from tests.broker.kafka.fakes import TOPIC, FakeConsumer, deliver, partition


def assigned(*states: CommittedState) -> tuple[Assignment, FakeConsumer]:
    assignment, consumer = Assignment(), FakeConsumer()
    assignment.consumer = consumer
    assignment.resume({partition(number): state for number, state in enumerate(states)})
    return assignment, consumer


def test_a_partition_that_comes_back_unread_by_others_keeps_its_tracker_and_position() -> None:
    assignment, consumer = assigned(CommittedState(5))
    tracker = assignment.trackers[partition()]
    deliver(None, tracker, 5, 6)
    committed = tracker.state()
    assignment.suspend()
    assert assignment.trackers == {}
    assignment.resume({partition(): committed})
    assert assignment.trackers == {partition(): tracker}
    assert consumer.positions == {partition(): 7}
    assert not tracker.lost


def test_a_partition_that_another_member_has_read_gets_a_new_tracker() -> None:
    assignment, _ = assigned(CommittedState(5))
    former = assignment.trackers[partition()]
    deliver(None, former, 5)
    assignment.suspend()
    assignment.resume({partition(): CommittedState(6, "another")})
    assert former.lost
    assert assignment.trackers[partition()] is not former
    assert assignment.trackers[partition()].position == 6


def test_a_partition_that_is_not_assigned_again_is_lost() -> None:
    assignment, _ = assigned(CommittedState(0), CommittedState(0))
    former = assignment.trackers[partition(1)]
    assignment.suspend()
    assignment.resume({partition(0): CommittedState(0)})
    assert former.lost
    assert list(assignment.trackers) == [partition(0)]


def test_a_partition_with_a_full_window_is_paused_until_it_has_room() -> None:
    assignment, consumer = assigned(CommittedState(0))
    tracker = assignment.trackers[partition()]
    deliver(None, tracker, *range(WINDOW + 1))
    assignment.pause_full_windows()
    assert consumer.paused == {partition()}
    tracker.settle(0)
    assignment.pause_full_windows()
    assert consumer.paused == set()


def test_a_deleted_topic_loses_all_trackers() -> None:
    assignment, consumer = assigned(CommittedState(0))
    tracker = assignment.trackers[partition()]
    assignment.check_topic(TOPIC)
    consumer.is_topic_gone = True
    with pytest.raises(TopicDeleted):
        assignment.check_topic(TOPIC)
    assert tracker.lost


def test_a_topic_that_ends_before_a_delivered_record_was_made_again() -> None:
    assignment, consumer = assigned(CommittedState(0))
    deliver(None, assignment.trackers[partition()], 0, 1, 2)
    consumer.ends[partition()] = 1
    with pytest.raises(TopicDeleted):
        assignment.check_topic(TOPIC)


def test_a_record_written_while_kafka_answers_is_no_sign_that_the_topic_was_made_again() -> None:
    """Kafka reads the end of a partition before its records: both come in one answer, and the end is too small."""
    assignment, consumer = assigned(CommittedState(0))
    tracker = assignment.trackers[partition()]
    consumer.ends[partition()], consumer.polled_ms[partition()] = 2, 1000
    deliver(None, tracker, 0, 1, 2)
    tracker.admitted_ms = poll_time(consumer, partition())
    assignment.check_topic(TOPIC)
    assert not tracker.lost
    consumer.polled_ms[partition()] = 1500  # a later answer has the true end
    with pytest.raises(TopicDeleted):
        assignment.check_topic(TOPIC)
