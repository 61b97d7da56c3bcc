"""Where the real servers of the tests are, and who may kill them.

The environment is asked first, then `.services.env`, which `make services` writes. A server that neither
names skips the test; in CI it fails the test.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_hidden = False


def hide() -> None:
    """Act as if there were no server: every test that needs one is skipped."""
    global _hidden
    _hidden = True


def rabbitmq_url() -> str:
    """Return the AMQP address of a RabbitMQ that tests may fill with queues of their own prefix."""
    return _address("MILLRACE_TEST_RABBITMQ_URL")


def amqps_url() -> str:
    """Return the address of that RabbitMQ over TLS: amqps://user:password@host:port/?cafile=..."""
    return _address("MILLRACE_TEST_AMQPS_URL")


def rabbitmq4_url() -> str:
    """Return the AMQP address of a RabbitMQ of the fourth generation, for tests to use in the same way."""
    return _address("MILLRACE_TEST_RABBITMQ4_URL")


def kafka_url() -> str:
    """Return the address of a Kafka that tests may fill with topics of their own prefix: kafka://host:port."""
    return _address("MILLRACE_TEST_KAFKA_URL")


def kafkas_url() -> str:
    """Return its address over TLS, with a user who has a SCRAM-SHA-512 password: kafkas://user:password@host:port?cafile=..."""
    return _address("MILLRACE_TEST_KAFKAS_URL")


def control_rabbitmq(*command: str) -> None:
    """Run `start`, `kill`, `restart`, `alarm on|off` or `ctl ...` on the node, and return once it has happened.

    Only a node that `make services` started is ours to kill: with a lent one the test is skipped.
    """
    rabbitmq_url()
    _control("RABBITMQ", command)


def control_rabbitmq4(*command: str) -> None:
    """Run `start`, `kill`, `restart`, `alarm on|off` or `ctl ...` on the node, as `control_rabbitmq` does."""
    rabbitmq4_url()
    _control("RABBITMQ4", command)


def control_kafka(*command: str) -> None:
    """Run `start`, `kill` or `restart` on the node, as `control_rabbitmq` does."""
    kafka_url()
    _control("KAFKA", command)


def _control(server: str, command: Sequence[str]) -> None:
    script = _look_up(f"MILLRACE_TEST_{server}_CONTROL")
    if script is None:
        pytest.skip("this server is lent: it is not ours to kill")
    subprocess.run([ROOT / script, *command], check=True, timeout=110, stdin=subprocess.DEVNULL)


def _address(name: str) -> str:
    if _hidden:
        pytest.skip("without servers")
    value = _look_up(name)
    if value is not None:
        return value
    reason = f"no {name} in the environment or .services.env: run `make services`"
    if os.environ.get("CI"):  # noqa: TID251 - tests are no process of the product: settings do not know CI
        pytest.fail(reason)
    pytest.skip(reason)


def _look_up(name: str) -> str | None:
    return os.environ.get(name) or _written_addresses().get(name)  # noqa: TID251 - as above


def _written_addresses() -> dict[str, str]:
    file = ROOT / ".services.env"
    if not file.exists():
        return {}
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
