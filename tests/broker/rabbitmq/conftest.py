"""Fixtures for tests of the RabbitMQ adapter alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.base import Broker
from tests.contract.installation import Installation
from tests.proxy import Proxy
from tests.servers import rabbitmq_url


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    async with Installation(rabbitmq_url(), user="guest") as installation:
        yield installation


@pytest.fixture
async def broker(installation: Installation) -> Broker:
    return await installation.broker()


@pytest.fixture
async def proxy(installation: Installation) -> AsyncIterator[Proxy]:
    async with Proxy(installation.url) as proxy:
        yield proxy
