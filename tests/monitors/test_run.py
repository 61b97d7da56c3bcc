"""The monitors' process finds endpoints and queues by itself."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from broker.base import Broker, Since
from broker.channels import Channels
from broker.errors import Unreachable
from broker.messages import Depth, Message, Record
from broker.protocol.ids import now_us
from broker.records.declared import endpoint_withdrawn
from broker.records.status import SILENT_AFTER_S, Announcement, read_status, write_announcement
from monitors.known import KnownVersions
from monitors.queues import QueueDepths, queues
from monitors.run import MonitorSettings, run
from tests.monitors.events import DECLARED, ended, write
from tests.waiting import until


def announced(model: str, version: int) -> bytes:
    return write_announcement(
        Announcement(instance="i", part="replica", state="ready", at_us=now_us(), model=model, version=version)
    )


async def test_an_endpoint_that_is_declared_later_is_followed(broker: Broker, tmp_path: Path) -> None:
    registry, stop = CollectorRegistry(), asyncio.Event()
    settings = MonitorSettings(instance="monitor-1", folder=tmp_path / "checkpoints")
    running = asyncio.create_task(run(broker, settings, registry, stop))
    await broker.declare(broker.channels.declared)
    await broker.append(broker.channels.declared, [DECLARED])
    await write(broker, [ended(), ended()])
    await until(lambda: registry.get_sample_value("millrace_monitor_rows_total", {"endpoint": "fraud"}) == 2)
    stop.set()
    await running
    assert (tmp_path / "checkpoints" / "fraud.json").exists()
    records = await broker.read(broker.channels.status, Since(0)).read(100)
    said = [it for it in map(read_status, records) if it is not None]
    assert [(it.part, it.state) for it in said] == [("monitors", "ready"), ("monitors", "stopped")]


def test_known_are_declared_endpoints_and_models_that_none_claims() -> None:
    known = KnownVersions()
    known.fold_status(Record(0, announced("trees", 1), {}))
    known.fold_status(Record(1, announced("other", 2), {}))
    assert known.endpoints() == {"trees", "other"}
    known.fold_declared(Record(0, DECLARED, {}))
    assert known.endpoints() == {"fraud", "other"}
    assert known.versions() == {("trees", 1), ("other", 2)}
    known.fold_declared(Record(1, endpoint_withdrawn("fraud", "test"), {}))
    assert known.endpoints() == {"trees", "other"}


async def test_depths_are_of_messages_and_of_requests(broker: Broker) -> None:
    registry, known = CollectorRegistry(), KnownVersions()
    known.fold_declared(Record(0, DECLARED, {}))
    depths = QueueDepths(broker, known, registry)
    await broker.declare(broker.channels.inputs("trees", 1))
    await broker.publish(
        [Message(queue=broker.channels.inputs("trees", 1), body=b"x", count=count) for count in (3, 4)]
    )
    await depths.update()
    labels = {"queue": "inputs.trees.1", "kind": "inputs"}
    assert registry.get_sample_value("millrace_queue_messages", labels) == 2
    assert registry.get_sample_value("millrace_queue_requests", labels) == 7
    known.fold_declared(Record(1, endpoint_withdrawn("fraud", "test"), {}))
    await depths.update()
    assert registry.get_sample_value("millrace_queue_messages", labels) is None


async def test_a_depth_that_cannot_be_read_is_not_zero(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_: Broker, queue: str) -> Depth:
        raise Unreachable(queue)

    monkeypatch.setattr(type(broker), "depth", away)
    registry, known = CollectorRegistry(), KnownVersions()
    known.fold_declared(Record(0, DECLARED, {}))
    await QueueDepths(broker, known, registry).update()
    value = registry.get_sample_value("millrace_queue_messages", {"queue": "inputs.trees.1", "kind": "inputs"})
    assert value is not None
    assert math.isnan(value)


def test_every_kind_of_queue_is_looked_at() -> None:
    known = KnownVersions()
    known.fold_declared(Record(0, DECLARED, {}))
    assert set(queues(Channels("mine."), known)) == {
        ("inputs.trees.1", "inputs"),
        ("retry.inputs.trees.1", "retry"),
        ("dead.inputs.trees.1", "dead"),
        ("requests.fraud", "requests"),
        ("results.fraud", "results"),
    }


def test_targets_are_who_serves_metrics_and_was_heard_lately() -> None:
    now = [100.0]
    known = KnownVersions(lambda: now[0])
    said = Announcement(
        instance="r1", part="replica", state="ready", at_us=1, metrics_port=4242, model="trees", version=1
    )
    known.fold_status(Record(0, write_announcement(said), {}))
    assert known.targets() == [
        {"targets": ["127.0.0.1:4242"], "labels": {"part": "replica", "instance": "r1", "model": "trees"}}
    ]
    now[0] += SILENT_AFTER_S + 1
    assert known.targets() == []
