"""Fixtures: an installation on each broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.kill.installation import Installation
from tests.servers import kafka_url, rabbitmq_url

URLS: dict[str, Callable[[], str]] = {"sqlite": lambda: "", "rabbitmq": rabbitmq_url, "kafka": kafka_url}


@pytest.fixture(params=list(URLS))
def broker_url(request: pytest.FixtureRequest) -> str:
    """The broker's address; empty for the embedded broker in the test's folder."""
    return URLS[request.param]()


@pytest.fixture
async def installation(broker_url: str, tmp_path: Path) -> AsyncIterator[Installation]:
    async with Installation(tmp_path, broker_url) as installation:
        yield installation
