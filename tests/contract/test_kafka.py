"""The Kafka adapter keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.base import Broker
from tests.contract import steps
from tests.contract.broker_contract import BrokerContract
from tests.contract.installation import Installation
from tests.servers import kafka_url


class TestKafka(BrokerContract):
    """On the Kafka node for tests."""

    @pytest.fixture
    async def installation(self) -> AsyncIterator[Installation]:
        async with Installation(kafka_url(), user=None) as installation:
            yield installation

    @pytest.mark.xfail(
        reason="a partition has one owner: its messages wait for this owner, even if another consumer has room",
        raises=TimeoutError,
    )
    async def test_messages_beyond_a_full_prefetch_are_taken_by_other_consumers(
        self, installation: Installation, broker: Broker
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "DEADLINE_S", 8.0)  # do not wait longer for the expected failure
            async with Installation(f"{installation.url}?partitions=1", user=None) as narrow:
                await super().test_messages_beyond_a_full_prefetch_are_taken_by_other_consumers(
                    narrow, await narrow.broker()
                )
