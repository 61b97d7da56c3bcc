"""The catalog says what in the repository is not served: once, and not of what is only being copied in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.announcer import Announcer
from broker.channels import Channels
from broker.sqlite.adapter import SqliteBroker
from broker.status import read_status
from processors.catalog import Catalog, CatalogSettings
from processors.engine import Engine, Wanted
from tests.processors.test_repository import add


class Idle(Engine):
    """Runs nothing."""

    async def open(self) -> None: ...

    async def want(self, wanted: Sequence[Wanted]) -> None: ...

    async def watch(self) -> None: ...

    async def close(self) -> None: ...


async def test_a_folder_that_is_no_version_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = tmp_path / "models"
    add(models, "m", 1)
    (models / "m/abc").mkdir()
    async with SqliteBroker(tmp_path / "b.db", Channels()) as broker:
        await broker.declare(broker.channels.status)
        announcer = Announcer(broker, instance="catalog-test", part="catalog")
        catalog = Catalog(broker, Idle(), CatalogSettings(instance="catalog-test", repository=models), announcer)
        await catalog.look()
        assert caplog.text.count("abc is not served") == 1
        (models / "m/2").mkdir()
        await catalog.look()
        assert "m/2 is not served" not in caplog.text
        for _ in range(3):
            await catalog.look()
    assert caplog.text.count("abc is not served") == 1
    assert caplog.text.count("m/2 is not served: there is no model.py in it") == 1


async def test_a_repository_that_is_not_there_is_announced_and_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = tmp_path / "models"
    async with SqliteBroker(tmp_path / "b.db", Channels()) as broker:
        await broker.declare(broker.channels.status)
        announcer = Announcer(broker, instance="catalog-test", part="catalog")
        catalog = Catalog(broker, Idle(), CatalogSettings(instance="catalog-test", repository=models), announcer)
        reader = broker.read(broker.channels.status, 0)
        for _ in range(3):
            await catalog.look()
        assert caplog.text.count("cannot be listed") == 1
        [said] = map(read_status, await reader.read(10))
        assert said is not None
        assert said.state == "ready"
        assert f"{models} cannot be listed" in said.error
        add(models, "m", 1)
        await catalog.look()
        mended = read_status((await reader.read(1))[0])
        await reader.close()
    assert mended is not None
    assert mended.error == ""
