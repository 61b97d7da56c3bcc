"""The servers for tests keep confirmed messages over a kill, raise alarms, and are installed or skipped."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pika
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError
from pika.adapters.blocking_connection import BlockingChannel

from tests import servers

QUEUE = "tests.servers"
DURABLE = pika.BasicProperties(delivery_mode=2)
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Node:
    """A RabbitMQ for tests: its address, and the function that controls it."""

    url: Callable[[], str]
    control: Callable[..., None]

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        connection = pika.BlockingConnection(pika.URLParameters(self.url()))
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()


NODES = {
    "rabbitmq": Node(servers.rabbitmq_url, servers.control_rabbitmq),
    "rabbitmq4": Node(servers.rabbitmq4_url, servers.control_rabbitmq4),
}


@pytest.fixture(params=NODES)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node that runs without an alarm, before and after the test, with an empty classic queue.

    RabbitMQ 3.10 loses a quorum queue if it is killed within a second of its declaration. RabbitMQ 4 may lose a classic
    queue too, until it has written its log of declarations (`mnesia:sync_log`).
    """
    node = NODES[request.param]
    with node.channel() as channel:
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True)
    node.control("ctl", "eval", "mnesia:sync_log().")
    yield node
    node.control("start")
    node.control("alarm", "off")
    with node.channel() as channel:
        channel.queue_delete(QUEUE)


def test_a_killed_node_keeps_its_confirmed_messages(node: Node) -> None:
    with node.channel() as channel:
        channel.confirm_delivery()
        channel.basic_publish("", QUEUE, b"kept", DURABLE)
    node.control("kill")
    with pytest.raises(pika.exceptions.AMQPConnectionError), node.channel():
        pass
    node.control("start")
    with node.channel() as channel:
        _, _, body = channel.basic_get(QUEUE, auto_ack=True)
    assert body == b"kept"


def test_a_memory_alarm_blocks_publishers_until_it_is_cleared(node: Node) -> None:
    seen: list[str] = []
    with node.channel() as channel:
        connection = channel.connection
        connection.add_on_connection_blocked_callback(lambda *_: seen.append("blocked"))
        connection.add_on_connection_unblocked_callback(lambda *_: seen.append("unblocked"))
        node.control("alarm", "on")
        channel.basic_publish("", QUEUE, b"held back", DURABLE)
        connection.process_data_events(time_limit=5)
        node.control("alarm", "off")
        connection.process_data_events(time_limit=5)
    assert seen == ["blocked", "unblocked"]


@pytest.fixture
async def topic() -> AsyncIterator[str]:
    """An empty topic with one partition; the node is started again after the test."""
    name = f"tests.servers.{uuid4().hex}"
    async with _admin() as admin:
        await admin.create_topics([NewTopic(name, 1, 1)])
    yield name
    await asyncio.to_thread(servers.control_kafka, "start")
    async with _admin() as admin:
        await admin.delete_topics([name])


@pytest.mark.parametrize("ending", ["kill", "restart"])
async def test_a_killed_or_restarted_kafka_keeps_its_confirmed_messages(topic: str, ending: str) -> None:
    await _produce(topic, b"kept")
    await asyncio.to_thread(servers.control_kafka, ending)
    if ending == "kill":
        with pytest.raises(KafkaConnectionError):
            await _produce(topic, b"lost")
        await asyncio.to_thread(servers.control_kafka, "start")
    assert await _first_value(topic) == b"kept"


async def test_kafka_accepts_a_message_of_eight_mebibytes(topic: str) -> None:
    body = bytes(8 * MEBIBYTE)
    await _produce(topic, body)
    assert await _first_value(topic) == body


async def test_kafka_over_tls_accepts_only_the_right_password(topic: str) -> None:
    secure = _secure(servers.kafkas_url())
    await _produce(topic, b"sealed", **secure)
    assert await _first_value(topic) == b"sealed"
    with pytest.raises(KafkaConnectionError):
        await _produce(topic, b"forged", **{**secure, "sasl_plain_password": "guessed"})


@pytest.mark.parametrize(
    ("variable", "control"),
    [
        ("MILLRACE_TEST_RABBITMQ_URL", servers.control_rabbitmq),
        ("MILLRACE_TEST_RABBITMQ4_URL", servers.control_rabbitmq4),
        ("MILLRACE_TEST_KAFKA_URL", servers.control_kafka),
    ],
)
def test_a_server_that_make_services_did_not_start_is_never_killed(
    monkeypatch: pytest.MonkeyPatch, variable: str, control: Callable[..., None]
) -> None:
    monkeypatch.setattr(servers, "_written_addresses", dict)
    monkeypatch.setenv(variable, "scheme://elsewhere/")
    with pytest.raises(pytest.skip.Exception, match="was not started by"):
        control("kill")


@pytest.mark.parametrize("has_just_died", [True, False])
def test_a_start_waits_for_a_port_that_only_its_own_killed_node_may_hold(has_just_died: bool, tmp_path: Path) -> None:
    """The listener closes after one connection: the first check finds the port open, a later one does not."""
    if has_just_died:
        (tmp_path / "node.pid").write_text("1 0\n", "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def accept_once() -> None:
            listener.accept()[0].close()
            listener.close()

        threading.Thread(target=accept_once, daemon=True).start()
        script = f"set -euo pipefail; home={tmp_path}; . {servers.ROOT}/deploy/services/node.sh; ports_free {port}"
        done = subprocess.run(["/bin/bash", "-c", script], timeout=30, check=False)
    assert done.returncode == (0 if has_just_died else 1)


FAKE_DEBOOTSTRAP = """#!/bin/bash
folder=$4
ls -A "$folder"
mkdir -p "$folder/proc/1" "$folder/usr"
[[ ! -e {interrupt} ]] || {{ rm {interrupt}; kill -9 0; }}
touch "$folder/usr/installed"
"""


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="only Debian installs Debian")
def test_an_interrupted_installation_of_rabbitmq_4_is_started_again(tmp_path: Path) -> None:
    """A fake debootstrap that is killed shows that the next run begins with an empty folder, as the real one needs."""
    services, programs, interrupt = tmp_path / "deploy/services", tmp_path / "bin", tmp_path / "interrupt"
    shutil.copytree(servers.ROOT / "deploy/services", services)
    programs.mkdir()
    (programs / "debootstrap").write_text(FAKE_DEBOOTSTRAP.format(interrupt=interrupt), "utf-8")
    (programs / "debootstrap").chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"}

    def install() -> int:
        """Run the script in its own process group, which the fake debootstrap kills."""
        command = [str(services / "rabbitmq4.sh"), "install"]
        return subprocess.run(command, env=environment, start_new_session=True, timeout=60, check=False).returncode

    debian = tmp_path / ".cache/rabbitmq4"
    (debian / "usr/share").mkdir(parents=True)  # as an earlier version of the script left it
    interrupt.touch()
    assert install() != 0
    assert not (debian / "complete").exists()
    assert install() == 0
    assert (debian / "usr/installed").exists()
    assert (debian / "complete").exists()
    assert [path.name for path in debian.parent.iterdir() if path.is_dir()] == ["rabbitmq4"]
    assert (debian.parent / "rabbitmq4.out").read_text() == "", "debootstrap must get an empty folder"


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="only Debian installs Debian")
def test_the_folder_of_an_installation_that_still_runs_is_left_alone(tmp_path: Path) -> None:
    """It runs on without the lock if only `flock` was killed."""
    services, programs = tmp_path / "deploy/services", tmp_path / "bin"
    shutil.copytree(servers.ROOT / "deploy/services", services)
    programs.mkdir()
    (programs / "debootstrap").write_text(FAKE_DEBOOTSTRAP.format(interrupt=tmp_path / "interrupt"), "utf-8")
    (programs / "debootstrap").chmod(0o755)
    cache = tmp_path / ".cache"
    with subprocess.Popen(["/bin/bash", "-c", "exec -a rabbitmq.sh sleep 60"]) as running:
        try:
            mine, others = (cache / f"rabbitmq4.unfinished.{pid}" for pid in (running.pid, 2**22 + 1))
            mine.mkdir(parents=True)
            others.mkdir()
            while b"rabbitmq.sh" not in Path(f"/proc/{running.pid}/cmdline").read_bytes().split(b"\0")[0]:
                time.sleep(0.01)
            environment = {"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"}
            subprocess.run([services / "rabbitmq4.sh", "install"], env=environment, timeout=60, check=True)
        finally:
            running.kill()
    assert mine.exists()
    assert not others.exists()


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("MILLRACE_TEST_RABBITMQ_URL", servers.rabbitmq_url),
        ("MILLRACE_TEST_RABBITMQ4_URL", servers.rabbitmq4_url),
        ("MILLRACE_TEST_AMQPS_URL", servers.amqps_url),
        ("MILLRACE_TEST_KAFKA_URL", servers.kafka_url),
        ("MILLRACE_TEST_KAFKAS_URL", servers.kafkas_url),
    ],
)
def test_a_missing_server_skips_on_a_laptop_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: Callable[[], str], ci: str, outcome: type[Exception]
) -> None:
    monkeypatch.setattr(servers, "_written_addresses", dict)
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="make services"):
        url()


def _plain() -> dict[str, Any]:
    return {"bootstrap_servers": servers.kafka_url().removeprefix("kafka://")}


def _secure(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "bootstrap_servers": f"{parts.hostname}:{parts.port}",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": parts.username,
        "sasl_plain_password": parts.password,
        "ssl_context": ssl.create_default_context(cafile=dict(parse_qsl(parts.query))["cafile"]),
    }


@asynccontextmanager
async def _admin() -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**_plain())
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _produce(topic: str, body: bytes, **server: Any) -> None:
    producer = AIOKafkaProducer(**(server or _plain()), max_request_size=9 * MEBIBYTE)
    try:
        await producer.start()
        await producer.send_and_wait(topic, body)
    finally:
        await producer.stop()


async def _first_value(topic: str) -> bytes | None:
    async with AIOKafkaConsumer(topic, **_plain(), auto_offset_reset="earliest") as consumer:
        value: bytes | None = (await consumer.getone()).value
    return value
