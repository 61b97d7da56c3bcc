"""The life of a process in an installation, seen by another one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.channels import Channels
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.membership import Membership
from broker.messages import Record
from broker.records.status import Announcement, read_status
from broker.sqlite.adapter import SqliteBroker


async def test_a_member_declares_both_logs_catches_up_announces_and_says_that_it_stopped(tmp_path: Path) -> None:
    async with SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
        await broker.declare(broker.channels.declared)
        await broker.append(broker.channels.declared, [b"one", b"two"])
        declared: list[Record] = []
        status: list[Announcement | None] = []
        member = Membership(broker, Heartbeat(broker, instance="router-1", part="router"))
        followers = await member.follow(
            declared=declared.append, status=lambda record: status.append(read_status(record))
        )
        assert set(followers) == {"declared", "status"}
        async with asyncio.timeout(10):
            await member.caught_up()
        assert [record.body for record in declared] == [b"one", b"two"]
        await member.announce("ready")
        await member.announce("draining")
        ended = asyncio.Event()
        member.spawn(_until_cancelled(ended), "work")
        await asyncio.sleep(0)
        await member.leave()
        assert ended.is_set()
        reader = broker.read(broker.channels.status, 0)
        states = [announcement.state for record in await reader.read(10) if (announcement := read_status(record))]
        assert states == ["ready", "draining", "stopped"]
        await reader.close()


async def _until_cancelled(ended: asyncio.Event) -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        ended.set()
