"""The `declared` log follows the files: what leaves them is withdrawn, and nothing that came from elsewhere."""

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
    """Write a file; each is newer than the one before it, however coarse the file system's clock is."""
    path = folder / "endpoints" / file
    newer = path.stat().st_mtime + 1 if path.exists() else None
    path.write_text("\n---\n".join(f"endpoint: {name}\narms: {{{arm}: hello@1}}" for name in endpoints), "utf-8")
    if newer:
        os.utime(path, (newer, newer))
    return path


async def started(broker: Broker, folder: Path) -> DeclarationWatch:
    watch = DeclarationWatch(broker, folder, PATTERN)
    await watch.start()
    await watch.look()
    return watch


async def declared(broker: Broker) -> dict[str, list[str]]:
    """Return endpoints with their arms, as somebody who comes now reads them."""
    declarations = Declarations(broker)
    await declarations.read()
    return {name: list(endpoint.arms) for name, endpoint in declarations.endpoints.items()}


async def test_an_endpoint_that_is_renamed_in_its_file_leaves_no_old_name(broker: Broker, folder: Path) -> None:
    write(folder, "a.yaml", "old", "kept")
    watch = await started(broker, folder)
    write(folder, "a.yaml", "new", "kept")
    await watch.look()
    assert set(await declared(broker)) == {"new", "kept"}


async def test_what_left_the_files_while_nobody_watched_is_withdrawn_at_the_next_start(
    broker: Broker, folder: Path
) -> None:
    gone = write(folder, "a.yaml", "gone")
    write(folder, "b.yaml", "left", "kept")
    await started(broker, folder)
    gone.unlink()
    write(folder, "b.yaml", "kept")
    await started(broker, folder)
    assert set(await declared(broker)) == {"kept"}


async def test_what_was_declared_by_other_means_stays(broker: Broker, folder: Path, tmp_path: Path) -> None:
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


async def test_a_file_that_cannot_be_read_keeps_what_it_declared(broker: Broker, folder: Path) -> None:
    path = write(folder, "a.yaml", "a")
    await started(broker, folder)
    path.write_text("endpoint: [", "utf-8")
    await started(broker, folder)
    assert set(await declared(broker)) == {"a"}


async def test_an_endpoint_that_moves_to_another_file_is_never_away(broker: Broker, folder: Path) -> None:
    path = write(folder, "a.yaml", "moves")
    watch = await started(broker, folder)
    path.rename(path.with_name("b.yaml"))
    await watch.look()
    assert set(await declared(broker)) == {"moves"}
    path.with_name("b.yaml").unlink()
    await started(broker, folder)
    assert await declared(broker) == {}


async def test_a_file_takes_over_what_another_one_lets_go(broker: Broker, folder: Path) -> None:
    write(folder, "a.yaml", "shared", arm="first")
    write(folder, "b.yaml", "shared", arm="second")
    watch = await started(broker, folder)
    assert await declared(broker) == {"shared": ["first"]}
    write(folder, "a.yaml", "other", arm="first")
    await watch.look()
    assert await declared(broker) == {"other": ["first"], "shared": ["second"]}


async def test_a_broker_that_was_away_hears_of_it_later(
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
            await watch.look()
    await watch.look()
    assert set(await declared(broker)) == {"new"}


async def test_two_documents_for_one_endpoint_change_nothing_and_are_said(
    broker: Broker, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, "a.yaml", "same")
    watch = await started(broker, folder)
    write(folder, "a.yaml", "same", "same", arm="v2")
    await watch.look()
    assert await declared(broker) == {"same": ["v1"]}
    assert "endpoint same is declared twice in this file" in caplog.text


async def test_files_that_are_not_read_or_declare_nothing_are_warned_of_once(
    broker: Broker, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, "a.yaml", "a")
    write(folder, "b.yml", "b")
    watch = await started(broker, folder)
    write(folder, "a.yaml")
    for _ in range(3):
        await watch.look()
    assert await declared(broker) == {}
    assert caplog.text.count("b.yml is not read: endpoints is endpoints/*.yaml; name it b.yaml") == 1
    assert caplog.text.count("a.yaml declares nothing") == 1
