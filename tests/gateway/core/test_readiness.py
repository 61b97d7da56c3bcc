"""Ready means that all repository models and declared arms are served or known to be broken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.delivery.heartbeat import Heartbeat
from broker.protocol.ids import now_us
from broker.records.status import Announcement, write_announcement
from broker.support.database import Durability
from tests.gateway.running_gateway import Gateway, X, running_gateway
from tests.waiting import until

ARMS = {"a": "double@1", "b": "double@2"}
BROKEN = "endpoint fraud: arm b (double@2) has no ready replica"


@pytest.fixture
async def starting(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway before the first announcement of a catalog."""
    async with running_gateway(tmp_path, is_loaded=False) as gateway:
        yield gateway


async def test_nothing_is_ready_before_the_repository_is_known(starting: Gateway) -> None:
    answer = await starting.until("/v2/health/ready", 503)
    assert "no catalog has announced the model repository yet" in answer.json()["waiting_for"][0]
    await starting.catalog({"double": [1]})
    await starting.until("/v2/health/ready", 200)


async def test_an_endpoint_that_is_not_known_yet_is_503_and_not_404(starting: Gateway) -> None:
    """An early client should try again, not give up."""
    answer = await starting.client.post("/v2/models/later/infer", json={"inputs": []})
    assert answer.status_code == 503
    assert "is still loading models" in answer.json()["error"]
    await starting.catalog({"double": [1]})
    await starting.until("/v2/health/ready", 200)
    assert (await starting.client.post("/v2/models/later/infer", json={"inputs": []})).status_code == 404


async def test_each_version_of_the_repository_is_waited_for(starting: Gateway) -> None:
    await starting.catalog({"double": [1], "slow": [3]})
    answer = await starting.until("/v2/health/ready", 503)
    assert answer.json()["waiting_for"] == ["model slow@3 is still loading"]
    await starting.announce("slow", 3, "loading")
    assert (await starting.client.get("/v2/health/ready")).status_code == 503
    await starting.announce("slow", 3, "ready")
    await starting.until("/v2/health/ready", 200)


async def test_a_version_that_failed_is_not_waited_for(starting: Gateway) -> None:
    await starting.catalog({"double": [1], "broken": [1]}, other="its config cannot be read")
    await starting.announce("broken", 1, "failed", error="no such file")
    await starting.until("/v2/health/ready", 200)


async def test_a_version_whose_processes_die_while_loading_is_not_waited_for(starting: Gateway) -> None:
    await starting.catalog({"double": [1], "crashing": [1]})
    for turn in range(3):
        assert (await starting.client.get("/v2/health/ready")).status_code == 503
        announcement = Announcement(
            instance=f"replica-{turn}", part="replica", state="loading", at_us=now_us(), model="crashing", version=1
        )
        await starting.broker.append(starting.broker.channels.status, [write_announcement(announcement)])
    await starting.until("/v2/health/ready", 200)


async def test_an_arm_that_breaks_later_makes_only_its_endpoint_unready(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        await gateway.declare(endpoint="fraud", arms=ARMS, policy={"split": ["a", "b"]})
        await gateway.until("/v2/models/fraud/ready", 200)
        answer = await gateway.client.get("/v2/health/ready")
        assert (answer.status_code, answer.json()["troubles"]) == (200, [BROKEN])
        assert (await gateway.client.get("/v2/models/fraud/versions/b/ready")).status_code == 503


async def test_a_setting_keeps_tritons_strict_form(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, strict_readiness=True) as gateway:
        await gateway.declare(endpoint="fraud", arms=ARMS, policy={"split": ["a", "b"]})
        answer = await gateway.until("/v2/health/ready", 503)
        assert answer.json()["waiting_for"] == [BROKEN]
        await gateway.announce("double", 2, "ready")
        await gateway.until("/v2/health/ready", 200)


async def test_the_troubles_of_other_processes_are_shown(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        announcer = Heartbeat(
            gateway.broker, instance="router-1", part="router", troubles=lambda: ["endpoint later: refused"]
        )
        await announcer.set_state("ready")

        async def shown() -> bool:
            answer = await gateway.client.get("/v2/health/ready")
            return bool(answer.json()["troubles"] == ["router router-1: endpoint later: refused"])

        await until(shown)


async def test_a_broker_that_takes_nothing_makes_the_gateway_unready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_gateway(tmp_path) as gateway:
        monkeypatch.setattr(type(gateway.broker), "stopped_by", "broker.db cannot be written: the disk is full")
        answer = await gateway.until("/v2/health/ready", 503)
        assert answer.json()["waiting_for"] == ["broker.db cannot be written: the disk is full"]


async def test_a_full_disk_is_reported_at_once_by_every_route(tmp_path: Path) -> None:
    """Not as a 504 after a wait, while readiness is 200."""
    async with running_gateway(tmp_path) as gateway:
        url, body = "/v2/models/double/infer", {"inputs": [X], "parameters": {"pad": "x" * 4_000_000}}
        await pages(gateway, 1)
        try:
            refused = await gateway.client.post(url, json=body)
            assert (refused.status_code, refused.headers["millrace-status"]) == (429, "overloaded")
            assert "broker.db cannot be written: the disk is full" in refused.json()["error"]
            answer = await gateway.client.get("/v2/health/ready")
            assert answer.status_code == 503
            assert "the disk is full" in answer.json()["waiting_for"][0]
        finally:
            await pages(gateway, 1 << 30)
        assert (await gateway.client.post(url, json=body)).status_code == 200
        await gateway.until("/v2/health/ready", 200)


async def pages(gateway: Gateway, most: int) -> None:
    """Limit the broker's file to this many pages: SQLite then fails as on a full disk."""
    database = gateway.broker.database  # type: ignore[attr-defined]
    await database.run(lambda c: c.execute(f"PRAGMA max_page_count={most}").fetchall(), Durability.READ)
