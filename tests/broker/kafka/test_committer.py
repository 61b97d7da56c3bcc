"""Commits, and the deliveries that they are for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiokafka import TopicPartition

from broker.kafka.assignment import Assignment
from broker.kafka.committer import Committer
from broker.kafka.delivery_buffer import DeliveryBuffer
from broker.kafka.held_deliveries import HeldDeliveries
from broker.kafka.offset_tracker import CommittedState, OffsetTracker, unpack_state
from tests.broker.kafka.fakes import TOPIC, FakeConsumer, deliver, partition


class FakeOffsets:
    """Records the trims."""

    def __init__(self) -> None:
        self.trims: list[Mapping[TopicPartition, int]] = []

    async def trim(self, before: Mapping[TopicPartition, int]) -> None:
        self.trims.append(before)


class Subscription:
    """The classes of a subscription with one partition, on a fake consumer."""

    def __init__(self, *, shared: bool = True) -> None:
        self.assignment, self.consumer = Assignment(), FakeConsumer()
        self.assignment.consumer = self.consumer
        self.assignment.resume({partition(): CommittedState(0)})
        self.offsets, self.buffer = FakeOffsets(), DeliveryBuffer()
        self.committer = Committer(self.offsets, TOPIC, self.assignment, shared=shared)  # type: ignore[arg-type]
        self.held = HeldDeliveries(self.assignment, self.buffer, self.committer)

    @property
    def tracker(self) -> OffsetTracker:
        return self.assignment.trackers[partition()]

    def committed(self) -> CommittedState:
        commit = self.consumer.commits[-1][partition()]
        return unpack_state(commit.offset, commit.metadata)


async def test_the_reach_is_committed_before_records_are_delivered() -> None:
    subscription = Subscription()
    deliver(subscription.held, subscription.tracker, 0, 1, 2)
    subscription.consumer.refusals = 2
    assert await subscription.committer.commit_before_delivery({subscription.tracker}, ahead=1)
    assert (subscription.committed().offset, subscription.committed().reach) == (0, 4)


async def test_the_reach_is_exact_if_the_partition_has_more_records() -> None:
    subscription = Subscription()
    subscription.consumer.ends[partition()] = 100
    deliver(subscription.held, subscription.tracker, 0, 1, 2)
    assert await subscription.committer.commit_before_delivery({subscription.tracker}, ahead=1)
    assert subscription.committed().reach == 3


async def test_records_of_a_partition_that_was_lost_meanwhile_are_not_delivered() -> None:
    subscription = Subscription()
    deliver(subscription.held, subscription.tracker, 0)
    subscription.consumer.is_topic_gone = True
    assert not await subscription.committer.commit_before_delivery({subscription.tracker}, ahead=1)
    assert subscription.consumer.commits == []


async def test_a_flush_repeats_a_refused_commit_and_an_unchanged_state_is_not_committed_again() -> None:
    subscription = Subscription()
    [delivery] = deliver(subscription.held, subscription.tracker, 0)
    subscription.held.settle(subscription.tracker, [delivery.tag])
    subscription.consumer.refusals = 1
    await subscription.held.flush()
    await subscription.held.flush()
    assert len(subscription.consumer.commits) == 1
    assert subscription.committed().offset == 1


async def test_without_a_group_nothing_is_committed() -> None:
    subscription = Subscription(shared=False)
    deliver(subscription.held, subscription.tracker, 0)
    await subscription.held.flush()
    assert subscription.consumer.commits == []


async def test_a_requeued_delivery_is_taken_again_and_counted() -> None:
    subscription = Subscription()
    deliveries = deliver(subscription.held, subscription.tracker, 0)
    subscription.held.give_back(subscription.tracker, deliveries)
    await asyncio.wait_for(subscription.buffer.wait(), 10)
    assert [(again.tag, again.came_back) for again in subscription.buffer.pop(10)] == [(0, 1)]


async def test_a_delivery_that_is_given_back_while_stopping_is_no_longer_waited_for() -> None:
    subscription = Subscription()
    deliveries = deliver(subscription.held, subscription.tracker, 0, 1)
    subscription.held.stopping = True
    subscription.held.give_back(subscription.tracker, deliveries[:1])
    assert subscription.held.unsettled() == 1
    subscription.held.settle(subscription.tracker, [1])
    assert subscription.held.unsettled() == 0
    assert subscription.assignment.outstanding == 1  # it stays unsettled, for the next owner
