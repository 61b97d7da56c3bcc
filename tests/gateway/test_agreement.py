"""Two gateways with different assignment keys on one broker: one draws nothing by key, and every view shows it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from broker.records.agreement import Agreement
from gateway.core.core import GatewaySettings
from gateway.results.sqlite_store import SqliteResults
from gateway.run import run
from tests.gateway.running_gateway import X, running_gateway

BODY = {"inputs": [X]}
STICKY = {"endpoint": "e", "arms": {"v1": "double@1"}, "key": "header", "policy": {"split": ["v1"], "sticky": True}}
SERIES = ("millrace_settings_disagree", {"setting": "secrets.assignment"})


@pytest.mark.parametrize(("given", "code"), [(False, 503), (True, 200)])
async def test_a_gateway_with_a_generated_key_draws_nothing_by_key_beside_an_older_one(
    tmp_path: Path, given: bool, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    own = Agreement(key="mine", is_key_given=given, started_us=2)
    async with running_gateway(tmp_path, agreement=own) as gateway:
        await gateway.declare(**STICKY)
        await gateway.until("/v2/models/e/ready", 200)
        url, keyed = "/v2/models/e/infer", {"millrace-key": "ann"}
        assert (await gateway.client.post(url, json=BODY, headers=keyed)).status_code == 200
        stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
        theirs = Agreement(key="theirs", is_key_given=False, started_us=1)
        settings = GatewaySettings(instance="gateway-older", port=0, agreement=theirs)
        results = SqliteResults(tmp_path / "older.db", ttl_s=60.0)
        older = asyncio.create_task(
            run(gateway.broker, settings, b"other", results, CollectorRegistry(), stop, on_started=started.set_result)
        )
        await started
        if not given:
            ready = await gateway.until("/v2/health/ready", 503)
            assert "gateway-older has another assignment key" in ready.text
        while gateway.registry.get_sample_value(*SERIES) != 1.0:  # noqa: ASYNC110 - a metric has no event
            await asyncio.sleep(0.02)
        answer = await gateway.client.post(url, json=BODY, headers=keyed)
        assert answer.status_code == code
        assert ("give all of them the same secrets.assignment" in answer.text) is not given
        assert (await gateway.client.post(url, json=BODY)).status_code == 200
        pinned = await gateway.client.post("/v2/models/e/versions/v1/infer", json=BODY, headers=keyed)
        assert pinned.status_code == 200
        assert "secrets.assignment does not agree: gateway-older has another one" in caplog.text
        stop.set()
        await older
        await gateway.until("/v2/health/ready", 200)
        assert (await gateway.client.post(url, json=BODY, headers=keyed)).status_code == 200
