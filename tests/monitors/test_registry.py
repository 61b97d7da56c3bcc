"""Monitors are found by name: the built-in one, and those of other installed packages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.errors import Misconfigured
from monitors.base import MonitorContext
from monitors.checkpoint import load
from monitors.registry import GROUP, make_monitors
from monitors.run import MonitorSettings, run
from tests.installed_package import installed_package
from tests.monitors.events import DECLARED, ended, write
from tests.waiting import until

TOY = """
from monitors.base import EndpointMonitor, Monitor

SEEN = []


class Toy(Monitor):
    def __init__(self, context):
        pass

    def follow(self, endpoint):
        return EndpointToy()

    async def close(self):
        SEEN.append("closed")


class EndpointToy(EndpointMonitor):
    async def fold(self, records, *, counted_before):
        new = [record.offset for record in records if record.offset >= counted_before]
        SEEN.extend(new)
        return len(new)
"""


def context() -> MonitorContext:
    return MonitorContext(registry=CollectorRegistry())


async def test_a_toy_monitor_needs_only_its_one_file_and_goes_on_at_its_own_checkpoint(
    broker: Broker, tmp_path: Path
) -> None:
    await broker.declare(broker.channels.declared)
    await broker.append(broker.channels.declared, [DECLARED])
    folder = tmp_path / "checkpoints"
    with installed_package(tmp_path / "site", "toys", {"toys": TOY}, {GROUP: {"toy": "toys:Toy"}}):
        import toys  # type: ignore[import-not-found] # installed by this test

        for expected in ([0, "closed"], [0, "closed", 1, "closed"]):
            stop = asyncio.Event()
            settings = MonitorSettings(instance="monitor-1", folder=folder)
            running = asyncio.create_task(run(broker, settings, CollectorRegistry(), stop))
            await write(broker, [ended(), ended()])
            await until(lambda expected=expected: expected[:-1] == toys.SEEN)  # type: ignore[misc]
            stop.set()
            await running
            assert expected == toys.SEEN
    toy, prometheus = load(folder / "toy" / "fraud.json"), load(folder / "fraud.json")
    assert toy is not None
    assert prometheus is not None
    assert (toy.offset, toy.rows) == (2, 2)


async def test_a_process_can_run_some_of_the_monitors(tmp_path: Path) -> None:
    with installed_package(tmp_path / "site", "toys", {"toys": TOY}, {GROUP: {"toy": "toys:Toy"}}):
        assert [one.name for one in make_monitors(context(), tmp_path, ["toy"])] == ["toy"]
        assert sorted(one.name for one in make_monitors(context(), tmp_path)) == ["prometheus", "toy"]


def test_prometheus_keeps_the_checkpoints_that_it_had_before_there_were_other_monitors(tmp_path: Path) -> None:
    [prometheus] = make_monitors(context(), tmp_path)
    assert prometheus.checkpoint("fraud") == tmp_path / "fraud.json"


def test_an_unknown_monitor_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="monitor 'slack' is unknown: it must be one of prometheus"):
        make_monitors(context(), tmp_path, ["slack"])


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("toy", "toys:Missing", "toys:Missing cannot be imported"),
        ("toy", "not_there:Toy", "not_there:Toy cannot be imported"),
        ("../up", "toys:Toy", "a name is 1 to 63 letters"),
    ],
)
def test_a_monitor_that_cannot_be_used_is_named(tmp_path: Path, name: str, path: str, text: str) -> None:
    with (
        installed_package(tmp_path / "site", "toys", {"toys": TOY}, {GROUP: {name: path}}),
        pytest.raises(Misconfigured, match=text),
    ):
        make_monitors(context(), tmp_path)
