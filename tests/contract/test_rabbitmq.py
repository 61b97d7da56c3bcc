"""The RabbitMQ adapter keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.broker_contract import BrokerContract
from tests.contract.installation import Installation
from tests.servers import amqps_url, rabbitmq4_url, rabbitmq_url


class TestRabbitmq(BrokerContract):
    """On the RabbitMQ 3 node for tests."""

    @pytest.fixture
    async def installation(self) -> AsyncIterator[Installation]:
        async with Installation(rabbitmq_url(), user="guest") as installation:
            yield installation


class TestRabbitmq4(BrokerContract):
    """On the RabbitMQ 4 node for tests."""

    @pytest.fixture
    async def installation(self) -> AsyncIterator[Installation]:
        async with Installation(rabbitmq4_url(), user="guest") as installation:
            yield installation


class TestRabbitmqOverTls(BrokerContract):
    """Over TLS, whose sockets read and write differently."""

    @pytest.fixture
    async def installation(self) -> AsyncIterator[Installation]:
        async with Installation(amqps_url(), user="guest") as installation:
            yield installation
