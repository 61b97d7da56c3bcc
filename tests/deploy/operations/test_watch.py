"""The log `declared` follows the endpoint files; endpoints from other sources are not touched."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.base import Broker
from broker.channels import Channels
from broker.errors import Unreachable
from broker.messages import Outcome
from broker.records.endpoint import read_endpoint
from broker.sqlite.adapter import SqliteBroker
from deploy.operations.watch import Declarations, DeclarationWatch

PATTERN = "endpoints/*.yaml"


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with SqliteBroker(tmp_path / "b.db", Channels()) as broker:
        yield broker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop/endpoints").mkdir(parents=True)
    return tmp_path / "shop"


def write(folder: Path, file: str, *endpoints: str, arm: str = "v1") -> Path:
    """Write a file with a newer time of modification than before, even if the file system's clock is coarse."""
    path = folder / "endpoints" / file
    newer = path.stat().st_mtime + 1 if path.exists() else None
    path.write_text("\n---\n".join(f"endpoint: {name}\narms: {{{arm}: hello@1}}" for name in endpoints), "utf-8")
    if newer:
        os.utime(path, (newer, newer))
    return path


async def started(broker: Broker, folder: Path) -> DeclarationWatch:
    watch = DeclarationWatch(broker, folder, PATTERN)
    await watch.start()
    await watch.publish_changes()
    return watch


async def declared(broker: Broker) -> dict[str, list[str]]:
    """The declared endpoints with their arms, read from the log."""
    declarations = Declarations(broker)
    await declarations.read()
    return {name: list(endpoint.arms) for name, endpoint in declarations.endpoints.items()}


async def test_the_old_name_of_a_renamed_endpoint_is_withdrawn(broker: Broker, folder: Path) -> None:
    write(folder, "a.yaml", "old", "kept")
    watch = await started(broker, folder)
    write(folder, "a.yaml", "new", "kept")
    await watch.publish_changes()
    assert set(await declared(broker)) == {"new", "kept"}


async def test_endpoints_removed_while_no_watch_ran_are_withdrawn_at_the_next_start(
    broker: Broker, folder: Path
) -> None:
    gone = write(folder, "a.yaml", "gone")
    write(folder, "b.yaml", "left", "kept")
    await started(broker, folder)
    gone.unlink()
    write(folder, "b.yaml", "kept")
    await started(broker, folder)
    assert set(await declared(broker)) == {"kept"}


async def test_endpoints_from_other_sources_stay(broker: Broker, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "endpoints").mkdir(parents=True)
    write(other, "a.yaml", "of-another-folder")
    await started(broker, other)
    by_hand = read_endpoint({"endpoint": "by-hand", "arms": {"v1": "hello@1"}}, source="test")
    await Declarations(broker).apply(by_hand, "millrace apply")
    write(folder, "a.yaml", "of-this-one")
    await started(broker, folder)
    (folder / "endpoints/a.yaml").unlink()
    await started(broker, folder)
    assert set(await declared(broker)) == {"of-another-folder", "by-hand"}


async def test_an_invalid_file_keeps_its_earlier_declarations(broker: Broker, folder: Path) -> None:
    path = write(folder, "a.yaml", "a")
    await started(broker, folder)
    path.write_text("endpoint: [", "utf-8")
    await started(broker, folder)
    assert set(await declared(broker)) == {"a"}


async def test_an_endpoint_that_moves_to_another_file_is_not_withdrawn(broker: Broker, folder: Path) -> None:
    path = write(folder, "a.yaml", "moves")
    watch = await started(broker, folder)
    path.rename(path.with_name("b.yaml"))
    await watch.publish_changes()
    assert set(await declared(broker)) == {"moves"}
    path.with_name("b.yaml").unlink()
    await started(broker, folder)
    assert await declared(broker) == {}


async def test_an_endpoint_removed_from_one_file_is_declared_by_another(broker: Broker, folder: Path) -> None:
    write(folder, "a.yaml", "shared", arm="first")
    write(folder, "b.yaml", "shared", arm="second")
    watch = await started(broker, folder)
    assert await declared(broker) == {"shared": ["first"]}
    write(folder, "a.yaml", "other", arm="first")
    await watch.publish_changes()
    assert await declared(broker) == {"other": ["first"], "shared": ["second"]}


async def test_changes_are_published_when_an_unreachable_broker_is_back(
    broker: Broker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder, "a.yaml", "gone")
    watch = await started(broker, folder)
    path.unlink()
    write(folder, "b.yaml", "new")

    async def away(*_: object) -> list[Outcome]:
        raise Unreachable("away")

    with monkeypatch.context() as patched:
        patched.setattr(broker, "append", away)
        with pytest.raises(Unreachable):
            await watch.publish_changes()
    await watch.publish_changes()
    assert set(await declared(broker)) == {"new"}


async def test_two_documents_for_one_endpoint_are_logged_and_change_nothing(
    broker: Broker, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, "a.yaml", "same")
    watch = await started(broker, folder)
    write(folder, "a.yaml", "same", "same", arm="v2")
    await watch.publish_changes()
    assert await declared(broker) == {"same": ["v1"]}
    assert "endpoint same is declared twice in this file" in caplog.text


async def test_unread_and_empty_files_are_logged_once(
    broker: Broker, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, "a.yaml", "a")
    write(folder, "b.yml", "b")
    watch = await started(broker, folder)
    write(folder, "a.yaml")
    for _ in range(3):
        await watch.publish_changes()
    assert await declared(broker) == {}
    assert caplog.text.count("b.yml is not read: endpoints is endpoints/*.yaml; name it b.yaml") == 1
    assert caplog.text.count("a.yaml declares no endpoint any more") == 1
