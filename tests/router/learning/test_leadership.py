"""Who leads is who has claimed last, as far as is read; before it writes, a leader reads all there is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.channels import Channels
from broker.connect import connect
from broker.delivery.log_follower import LogFollower
from broker.records.routing import write_claim
from router.learning.leadership import Leadership


async def test_a_leader_that_missed_a_claim_reads_it_before_it_writes_the_ledger(tmp_path: Path) -> None:
    """A process that was stopped wakes up believing in its own claim; the ledger alone would let it take it back."""
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("test.")) as broker:
        log = broker.channels.declared
        await broker.declare(log)
        woken = Leadership(broker, "woken")
        await broker.append(log, [write_claim("woken")])
        (own,) = await broker.read(log, 0).read(1)
        woken.fold_declared(own)
        assert await woken.confirmed_term() == own.offset
        await broker.append(log, [write_claim("other")])  # it does not know yet
        asked = asyncio.create_task(woken.confirmed_term())
        following = asyncio.create_task(LogFollower(broker, log, own.offset + 1, woken.fold_declared).run())
        assert await asked is None
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
