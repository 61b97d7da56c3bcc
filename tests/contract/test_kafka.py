"""Kafka keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.base import Broker
from tests.contract import steps
from tests.contract.broker_contract import BrokerContract
from tests.contract.installation import Installation
from tests.servers import kafka_url


class TestKafka(BrokerContract):
    """On the node that the tests are given."""

    @pytest.fixture
    async def installation(self) -> AsyncIterator[Installation]:
        async with Installation(kafka_url(), user=None) as installation:
            yield installation

    @pytest.mark.xfail(
        reason="a partition has one owner: what waits in it waits for its owner, not for whoever has room",
        raises=TimeoutError,
    )
    async def test_what_a_full_consumer_leaves_is_for_others(self, installation: Installation, broker: Broker) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "DEADLINE_S", 8.0)  # until it is kept, this is waited for in vain
            async with Installation(f"{installation.url}?partitions=1", user=None) as narrow:
                await super().test_what_a_full_consumer_leaves_is_for_others(narrow, await narrow.broker())
