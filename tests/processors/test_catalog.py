"""The catalog says what in the repository is not served: once, and not of what is only being copied in."""

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
from tests.processors.test_repository import CONFIG, add


class Idle(Engine):
    """Runs nothing, and keeps what was wanted last."""

    def __init__(self) -> None:
        self.wanted: dict[tuple[str, int], ReplicaTarget] = {}

    async def open(self) -> None: ...

    async def want(self, wanted: Sequence[ReplicaTarget]) -> None:
        self.wanted = {(one.model, one.version): one for one in wanted}

    async def watch(self) -> None: ...

    async def close(self) -> None: ...


@dataclass
class Looking:
    """A catalog over a repository, and what its engine is to run."""

    models: Path
    engine: Idle
    catalog: Catalog
    broker: Broker
    clock: list[float]

    async def look(self, times: int = 1) -> list[tuple[str, int]]:
        """Look so often; return what is wanted then."""
        for _ in range(times):
            await self.catalog.look()
        return sorted(self.engine.wanted)

    async def error(self) -> str:
        """Return what the catalog says of itself last."""
        reader = self.broker.read(self.broker.channels.status, 0)
        records = await reader.read(1000)
        await reader.close()
        said = read_status(records[-1])
        assert said is not None
        assert said.state == "ready"
        return said.error

    def come_up(self, model: str, version: int) -> None:
        """Say that a replica is ready."""
        said = Announcement(instance="r", part="replica", state="ready", at_us=0, model=model, version=version)
        self.catalog.fold(Record(0, write_announcement(said), {}))


@pytest.fixture
async def looking(tmp_path: Path) -> AsyncIterator[Looking]:
    models, engine = tmp_path / "models", Idle()
    models.mkdir()
    async with SqliteBroker(tmp_path / "b.db", Channels()) as broker:
        await broker.declare(broker.channels.status)
        announcer = Heartbeat(broker, instance="catalog-test", part="catalog")
        settings = CatalogSettings(instance="catalog-test", repository=models)
        clock = [0.0]
        yield Looking(models, engine, Catalog(broker, engine, settings, announcer, lambda: clock[0]), broker, clock)


async def test_a_folder_that_is_no_version_is_warned_of_once(
    looking: Looking, caplog: pytest.LogCaptureFixture
) -> None:
    add(looking.models, "m", 1)
    (looking.models / "m/abc").mkdir()
    await looking.look()
    assert caplog.text.count("abc is not served") == 1
    (looking.models / "m/2").mkdir()
    await looking.look()
    assert "m/2 is not served" not in caplog.text
    await looking.look(3)
    assert caplog.text.count("abc is not served") == 1
    assert caplog.text.count("m/2 is not served: there is no model.py in it") == 1


async def test_a_field_that_changes_nothing_is_warned_of_once(
    looking: Looking, caplog: pytest.LogCaptureFixture
) -> None:
    add(looking.models, "m", 1, config=CONFIG + "response_cache { enable: true }")
    await looking.look(3)
    assert caplog.text.count("response_cache changes nothing here") == 1


async def test_an_instance_group_says_how_many_replicas_there_are(looking: Looking) -> None:
    add(looking.models, "m", 1, config=CONFIG + "instance_group { count: 3 }")
    add(looking.models, "n", 1)
    await looking.look()
    assert {model: one.replicas for (model, _), one in looking.engine.wanted.items()} == {"m": 3, "n": 1}


async def test_a_config_that_becomes_wrong_leaves_what_serves_serving_with_the_error_in_status(
    looking: Looking, caplog: pytest.LogCaptureFixture
) -> None:
    add(looking.models, "m", 1)
    add(looking.models, "n", 1)
    before = await looking.look()
    wanted = looking.engine.wanted
    (looking.models / "m/config.pbtxt").write_text("nonsense: 1")
    assert await looking.look(3) == before == [("m", 1), ("n", 1)]
    assert looking.engine.wanted == wanted
    assert "m/config.pbtxt: 1:1" in await looking.error()
    assert caplog.text.count("nonsense") == 1
    (looking.models / "m/config.pbtxt").write_text(CONFIG)
    await looking.look(3)
    assert await looking.error() == ""
    assert looking.engine.wanted[("m", 1)].fingerprint != wanted[("m", 1)].fingerprint


async def test_a_version_that_changes_is_served_as_it_was_until_the_change_is_whole(looking: Looking) -> None:
    add(looking.models, "m", 1)
    await looking.look()
    before = looking.engine.wanted[("m", 1)]
    (looking.models / "m/1/model.py").write_text("other code")
    await looking.look()
    assert looking.engine.wanted[("m", 1)] == before
    await looking.look()
    assert looking.engine.wanted[("m", 1)].fingerprint != before.fingerprint


NEWEST = CONFIG.replace("version_policy { all {} }", "")


async def test_a_newer_version_takes_over_when_it_is_ready_and_not_before(looking: Looking) -> None:
    add(looking.models, "m", 1, config=NEWEST)
    assert await looking.look() == [("m", 1)]
    looking.come_up("m", 1)
    add(looking.models, "m", 2, config=NEWEST)
    assert await looking.look(5) == [("m", 1), ("m", 2)]
    looking.come_up("m", 2)
    assert await looking.look() == [("m", 2)]


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_what_vanishes_all_at_once_is_doubted_named_and_served_until_a_look_after_a_while(
    looking: Looking, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    """An unmounted volume looks like an empty folder, or shows what the folder below it holds."""
    before = [(name, 1) for name in "abcde"]
    for name, number in before:
        add(looking.models, name, number)
    assert await looking.look() == before
    away = looking.models.parent / "away"
    away.mkdir()
    for name in "abcde"[left:]:
        (looking.models / name).rename(away / name)
    looking.clock[0] = 10.0
    assert await looking.look(3) == before
    for said in (await looking.error(), caplog.text):
        assert f"{5 - left} versions vanished from {looking.models} at once" in said
        assert "is a volume unmounted?" in said
    looking.clock[0] = 69.0
    assert await looking.look(3) == before
    looking.clock[0] = 70.0
    assert await looking.look() == before[:left]
    assert await looking.error() == ""


async def test_what_comes_back_in_time_was_never_gone(looking: Looking) -> None:
    for name in "ab":
        add(looking.models, name, 1)
    await looking.look()
    wanted = dict(looking.engine.wanted)
    away = looking.models.rename(looking.models.parent / "away")
    looking.models.mkdir()
    await looking.look()
    looking.models.rmdir()
    await looking.look()
    assert "cannot be listed" in await looking.error()
    away.rename(looking.models)
    looking.clock[0] = 1000.0
    await looking.look()
    assert looking.engine.wanted == wanted
    assert await looking.error() == ""


async def test_one_model_of_several_that_is_removed_is_unloaded_at_once(looking: Looking) -> None:
    for name in "abc":
        add(looking.models, name, 1)
    await looking.look()
    shutil.rmtree(looking.models / "b")
    assert await looking.look() == [("a", 1), ("c", 1)]
