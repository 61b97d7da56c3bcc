"""The broker of a contract test, opened on its installation."""

from __future__ import annotations

import pytest

from broker.base import Broker
from tests.contract.installation import Installation


@pytest.fixture
async def broker(installation: Installation) -> Broker:
    return await installation.broker()
