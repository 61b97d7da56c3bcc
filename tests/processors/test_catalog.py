"""The catalog says what in the repository is not served: once, and not of what is only being copied in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.announcer import Announcer
from broker.base import Broker
from broker.channels import Channels
from broker.sqlite.adapter import SqliteBroker
from processors.catalog import Catalog, CatalogSettings
from processors.engine import Engine, Wanted
from tests.processors.test_repository import CONFIG, add


class Idle(Engine):
    """Runs nothing, and keeps what was wanted last."""

    def __init__(self) -> None:
        self.wanted: dict[tuple[str, int], Wanted] = {}

    async def open(self) -> None: ...

    async def want(self, wanted: Sequence[Wanted]) -> None:
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

    async def look(self, times: int = 1) -> list[tuple[str, int]]:
        """Look so often; return what is wanted then."""
        for _ in range(times):
            await self.catalog.look()
        return sorted(self.engine.wanted)


@pytest.fixture
async def looking(tmp_path: Path) -> AsyncIterator[Looking]:
    models, engine = tmp_path / "models", Idle()
    models.mkdir()
    async with SqliteBroker(tmp_path / "b.db", Channels()) as broker:
        await broker.declare(broker.channels.status)
        announcer = Announcer(broker, instance="catalog-test", part="catalog")
        settings = CatalogSettings(instance="catalog-test", repository=models)
        yield Looking(models, engine, Catalog(broker, engine, settings, announcer), broker)


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
