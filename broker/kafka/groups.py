"""Consumer groups: the committed state of their partitions, and their members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from aiokafka import TopicPartition
from aiokafka.protocol.group import LeaveGroupRequest

from broker.kafka.clients import KafkaClients
from broker.kafka.offset_tracker import UNKNOWN, CommittedState, unpack_state


class KafkaGroups:
    """All groups; the group of a queue has the queue's name."""

    def __init__(self, clients: KafkaClients) -> None:
        self._clients = clients

    async def committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, CommittedState]:
        """Return the last commit for each partition; an empty state where there is none. Raises Unreachable."""
        found = await self._clients.ask(
            lambda: self._clients.admin.list_consumer_group_offsets(group, partitions=list(partitions))
        )
        states = {}
        for partition in partitions:
            commit = found.get(partition)
            known = commit is not None and commit.offset != UNKNOWN
            states[partition] = unpack_state(commit.offset, commit.metadata or "") if known else CommittedState()
        return states

    async def dismiss(self, group: str, is_dead: Callable[[str], bool]) -> int:
        """Remove the members for whose client id `is_dead` returns True; return the number of removed members."""
        (answer,) = await self._clients.ask(lambda: self._clients.admin.describe_consumer_groups([group]))
        members = answer.to_object()["groups"][0]["members"]
        dead = [member["member_id"] for member in members if is_dead(member["client_id"])]
        if not dead:
            return 0
        coordinator = await self._clients.ask(lambda: self._clients.admin.find_coordinator(group))
        send = self._clients.admin._send_request  # noqa: SLF001 - aiokafka has no public method for this request
        answers = [await self._clients.ask(partial(send, LeaveGroupRequest(group, one), coordinator)) for one in dead]
        return sum(answer.error_code == 0 for answer in answers)  # a former coordinator answers with an error
