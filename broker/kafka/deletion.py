"""Whether a topic that is being read was deleted: aiokafka reads on in whatever has its name, and does not say so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka.errors import IllegalStateError

from broker.errors import TryAgain
from broker.kafka.offset_tracker import OffsetTracker


class TopicDeleted(TryAgain):
    """The topic is gone, or another one has its name: nothing of what was delivered can be settled."""


def check_topic(consumer: Any, topic: str, claims: Iterable[OffsetTracker]) -> None:
    """Raise `TopicDeleted` if a topic is gone or ends before a delivered record; all its claims are lost then.

    Costs no request: the consumer's last answers tell it.
    """
    claims = [claim for claim in claims if not claim.lost]
    if consumer.partitions_for_topic(topic) is not None and not any(_ends_before(consumer, each) for each in claims):
        return
    for claim in claims:
        claim.lost = True
    raise TopicDeleted(f"{topic} was deleted")


def _ends_before(consumer: Any, claim: OffsetTracker) -> bool:
    try:
        end = consumer.highwater(claim.partition)
    except IllegalStateError:  # it is not ours any more
        return False
    return end is not None and end < claim.position
