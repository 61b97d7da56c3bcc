"""The broker of a contract test, opened on its site."""

from __future__ import annotations

import pytest

from broker.base import Broker
from tests.contract.site import Site


@pytest.fixture
async def broker(site: Site) -> Broker:
    return await site.broker()
