"""The catalog serves complete versions, and warns once about everything that it does not serve."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.base import Broker
from broker.channels import Channels
from broker.delivery.heartbeat import Heartbeat
from broker.messages import Record
from broker.records.status import Announcement, read_status, write_announcement
from broker.sqlite.adapter import SqliteBroker
from processors.catalog import Catalog, CatalogSettings
from processors.engine import Engine, ReplicaTarget
from tests.processors.repository_folder import CONFIG, add_versions


class IdleEngine(Engine):
    """Runs nothing, and remembers its targets."""

    def __init__(self) -> None:
        self.targets: dict[tuple[str, int], ReplicaTarget] = {}

    async def open(self) -> None: ...

    async def set_targets(self, targets: Sequence[ReplicaTarget]) -> None:
        self.targets = {(one.model, one.version): one for one in targets}

    async def restart_dead(self) -> None: ...

    async def close(self) -> None: ...


@dataclass
class CatalogHarness:
    """A catalog over a repository, with its engine, its broker and its clock."""

    models: Path
    engine: IdleEngine
    catalog: Catalog
    broker: Broker
    clock: list[float]

    async def update(self, times: int = 1) -> list[tuple[str, int]]:
        """Scan the repository this often; return the targets of the engine."""
        for _ in range(times):
            await self.catalog.update()
        return sorted(self.engine.targets)

    async def error(self) -> str:
        """Return the error in the newest announcement of the catalog."""
        reader = self.broker.read(self.broker.channels.status, 0)
        records = await reader.read(1000)
        await reader.close()
        announcement = read_status(records[-1])
        assert announcement is not None
        assert announcement.state == "ready"
        return announcement.error

    def announce_ready(self, model: str, version: int) -> None:
        """Announce that a replica is ready."""
        announcement = Announcement(instance="r", part="replica", state="ready", at_us=0, model=model, version=version)
        self.catalog.fold(Record(0, write_announcement(announcement), {}))


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[CatalogHarness]:
    models, engine = tmp_path / "models", IdleEngine()
    models.mkdir()
    async with SqliteBroker(tmp_path / "b.db", Channels()) as broker:
        await broker.declare(broker.channels.status)
        heartbeat = Heartbeat(broker, instance="catalog-test", part="catalog")
        settings = CatalogSettings(instance="catalog-test", repository=models)
        clock = [0.0]
        yield CatalogHarness(
            models, engine, Catalog(broker, engine, settings, heartbeat, lambda: clock[0]), broker, clock
        )


async def test_a_folder_that_is_no_version_is_logged_once(
    harness: CatalogHarness, caplog: pytest.LogCaptureFixture
) -> None:
    add_versions(harness.models, "m", 1)
    (harness.models / "m/abc").mkdir()
    await harness.update()
    assert caplog.text.count("abc is not served") == 1
    (harness.models / "m/2").mkdir()
    await harness.update()
    assert "m/2 is not served" not in caplog.text
    await harness.update(3)
    assert caplog.text.count("abc is not served") == 1
    assert caplog.text.count("m/2 is not served: there is no model.py in it") == 1


async def test_a_field_without_effect_is_logged_once(harness: CatalogHarness, caplog: pytest.LogCaptureFixture) -> None:
    add_versions(harness.models, "m", 1, config=CONFIG + "response_cache { enable: true }")
    await harness.update(3)
    assert caplog.text.count("response_cache has no effect here") == 1


async def test_an_instance_group_sets_the_number_of_replicas(harness: CatalogHarness) -> None:
    add_versions(harness.models, "m", 1, config=CONFIG + "instance_group { count: 3 }")
    add_versions(harness.models, "n", 1)
    await harness.update()
    assert {model: one.replicas for (model, _), one in harness.engine.targets.items()} == {"m": 3, "n": 1}


async def test_a_config_that_becomes_wrong_leaves_its_replicas_running_and_is_announced(
    harness: CatalogHarness, caplog: pytest.LogCaptureFixture
) -> None:
    add_versions(harness.models, "m", 1)
    add_versions(harness.models, "n", 1)
    before = await harness.update()
    wanted = harness.engine.targets
    (harness.models / "m/config.pbtxt").write_text("nonsense: 1")
    assert await harness.update(3) == before == [("m", 1), ("n", 1)]
    assert harness.engine.targets == wanted
    assert "m/config.pbtxt: 1:1" in await harness.error()
    assert caplog.text.count("nonsense") == 1
    (harness.models / "m/config.pbtxt").write_text(CONFIG)
    await harness.update(3)
    assert await harness.error() == ""
    assert harness.engine.targets[("m", 1)].fingerprint != wanted[("m", 1)].fingerprint


async def test_a_changing_version_is_served_as_it_was_until_two_scans_agree(harness: CatalogHarness) -> None:
    add_versions(harness.models, "m", 1)
    await harness.update()
    before = harness.engine.targets[("m", 1)]
    (harness.models / "m/1/model.py").write_text("other code")
    await harness.update()
    assert harness.engine.targets[("m", 1)] == before
    await harness.update()
    assert harness.engine.targets[("m", 1)].fingerprint != before.fingerprint


NEWEST = CONFIG.replace("version_policy { all {} }", "")


async def test_an_older_version_stays_until_the_newer_one_is_ready(harness: CatalogHarness) -> None:
    add_versions(harness.models, "m", 1, config=NEWEST)
    assert await harness.update() == [("m", 1)]
    harness.announce_ready("m", 1)
    add_versions(harness.models, "m", 2, config=NEWEST)
    assert await harness.update(5) == [("m", 1), ("m", 2)]
    harness.announce_ready("m", 2)
    assert await harness.update() == [("m", 2)]


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_versions_that_vanish_together_are_named_and_served_for_a_time(
    harness: CatalogHarness, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    """An unmounted volume looks like an empty folder, or shows the contents of the folder below it."""
    before = [(name, 1) for name in "abcde"]
    for name, number in before:
        add_versions(harness.models, name, number)
    assert await harness.update() == before
    away = harness.models.parent / "away"
    away.mkdir()
    for name in "abcde"[left:]:
        (harness.models / name).rename(away / name)
    harness.clock[0] = 10.0
    assert await harness.update(3) == before
    for text in (await harness.error(), caplog.text):
        assert f"{5 - left} versions vanished from {harness.models} at once" in text
        assert "is a volume unmounted?" in text
    harness.clock[0] = 69.0
    assert await harness.update(3) == before
    harness.clock[0] = 70.0
    assert await harness.update() == before[:left]
    assert await harness.error() == ""


async def test_versions_that_return_in_time_were_served_throughout(harness: CatalogHarness) -> None:
    for name in "ab":
        add_versions(harness.models, name, 1)
    await harness.update()
    wanted = dict(harness.engine.targets)
    away = harness.models.rename(harness.models.parent / "away")
    harness.models.mkdir()
    await harness.update()
    harness.models.rmdir()
    await harness.update()
    assert "cannot be listed" in await harness.error()
    away.rename(harness.models)
    harness.clock[0] = 1000.0
    await harness.update()
    assert harness.engine.targets == wanted
    assert await harness.error() == ""


async def test_one_removed_model_of_several_is_unloaded_at_once(harness: CatalogHarness) -> None:
    for name in "abc":
        add_versions(harness.models, name, 1)
    await harness.update()
    shutil.rmtree(harness.models / "b")
    assert await harness.update() == [("a", 1), ("c", 1)]
