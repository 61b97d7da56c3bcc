"""Commands that read an installation create no files or channels, and need settings that exist."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from broker.channels import Channels
from broker.connect import connect
from broker.protocol.ids import now_us
from broker.records.status import Announcement, write_announcement
from broker.sqlite.adapter import SqliteBroker
from tests.deploy.running import environment, millrace
from tests.servers import kafka_url, rabbitmq_url

CANDIDATE = "endpoint: hello\narms: {v1: hello@1}\n"
READING = [
    ("status",),
    ("models",),
    ("predict", "hello", "{}"),
    ("dead", "list"),
    ("dead", "show", "hello@1"),
    ("dead", "replay", "hello@1", "--dry-run"),
    ("dead", "purge", "hello@1", "--dry-run"),
    ("route", "show", "hello"),
    ("route", "report", "hello"),
    ("route", "replay", "hello", "next.yaml"),
    ("route", "pause", "hello", "--yes"),
    ("withdraw", "hello", "--yes"),
]
LISTS = [("status",), ("models",), ("dead", "list")]
ALL_COMMANDS = [*READING, ("check",), ("apply", "next.yaml")]


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_without_settings_a_command_fails_and_creates_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "next.yaml").write_text(CANDIDATE, "utf-8")
    done = millrace(*words, folder=tmp_path)
    assert done.returncode == 2
    assert f"there is no millrace.yaml in {tmp_path}" in " ".join(done.stderr.split())
    assert file_names(tmp_path) == ["next.yaml"]


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_a_named_settings_file_must_exist(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "next.yaml").write_text(CANDIDATE, "utf-8")
    done = millrace(*words, "--settings", "shop.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert "there is no shop.yaml" in done.stderr
    assert file_names(tmp_path) == ["next.yaml"]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_before_the_first_start_a_command_warns_and_creates_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "millrace.yaml").write_text("", "utf-8")
    (tmp_path / "next.yaml").write_text(CANDIDATE, "utf-8")
    done = millrace(*words, folder=tmp_path)
    assert done.returncode == (0 if words in LISTS else 1)
    assert "nothing has run here yet" in done.stderr
    assert file_names(tmp_path) == ["millrace.yaml", "next.yaml"]


@pytest.mark.parametrize("url", [rabbitmq_url, kafka_url])
def test_reading_commands_create_no_channel_on_a_server(url: Callable[[], str], tmp_path: Path) -> None:
    address, prefix = url(), f"look-{uuid4().hex[:12]}."
    env = environment(MILLRACE__PREFIX=prefix, MILLRACE__BROKER__URL=address)
    codes = {words: millrace(*words, folder=tmp_path, env=env).returncode for words in LISTS}
    assert set(codes.values()) == {0}
    for words in (("route", "report", "hello"), ("withdraw", "hello", "--yes")):
        assert "no endpoint 'hello' is declared" in millrace(*words, folder=tmp_path, env=env).stderr
    assert asyncio.run(channels_exist(address, prefix)) == [False, False, False]
    assert file_names(tmp_path) == []


async def channels_exist(url: str, prefix: str) -> list[bool]:
    async with connect(url, Channels(prefix)) as broker:
        names = (broker.channels.declared, broker.channels.status, f"{prefix}limits")
        return [await broker.exists(channel) for channel in names]


async def test_a_heartbeat_of_a_clock_that_is_ahead_has_age_zero(tmp_path: Path) -> None:
    (tmp_path / "millrace.yaml").write_text("", "utf-8")
    async with SqliteBroker(tmp_path / "data/broker.db", Channels()) as broker:
        await broker.declare(broker.channels.status)
        announcement = Announcement(instance="g", part="gateway", state="ready", at_us=now_us() + 3_600_000_000)
        await broker.append(broker.channels.status, [write_announcement(announcement)])
        done = await asyncio.to_thread(millrace, "status", "--json", folder=tmp_path)
    assert [row["heard s ago"] for row in json.loads(done.stdout)] == [0.0]
