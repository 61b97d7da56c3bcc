"""An installation over each broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kill.installation import Installation
from tests.servers import rabbitmq_url


@pytest.fixture(params=["sqlite", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """The broker's address; the embedded one is in the test's own folder."""
    return rabbitmq_url() if request.param == "rabbitmq" else ""


@pytest.fixture
async def installation(broker_url: str, tmp_path: Path) -> AsyncIterator[Installation]:
    async with Installation(tmp_path, broker_url) as installation:
        yield installation
