"""Waiting for a gateway: how long it took, and a stop in between."""

from __future__ import annotations

import pytest

from broker.errors import Unavailable
from deploy.supervisor import wait_until_ready
from tests.deploy.running import free_port


async def test_who_is_stopped_before_the_gateway_is_ready_says_nothing_of_the_time_that_was_allowed() -> None:
    asked = iter([True, True, False])
    await wait_until_ready(free_port(), "127.0.0.1", 173.0, lambda: next(asked))


async def test_the_time_that_was_waited_is_said_and_what_is_missing() -> None:
    with pytest.raises(Unavailable, match="is not ready after 0 s: nothing listens there yet"):
        await wait_until_ready(free_port(), "127.0.0.1", 0.0)
