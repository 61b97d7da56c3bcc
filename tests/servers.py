"""The addresses of the real servers for tests, and commands that stop and start them.

The addresses are read from the environment, then from `.services.env`, which `make services` writes. A test of a server
that is in neither is skipped; in CI it fails.
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
    """The AMQP address of a RabbitMQ, in which tests may create queues with their own prefix."""
    return _address("MILLRACE_TEST_RABBITMQ_URL")


def amqps_url() -> str:
    """The address of the same RabbitMQ over TLS: amqps://user:password@host:port/?cafile=..."""
    return _address("MILLRACE_TEST_AMQPS_URL")


def rabbitmq4_url() -> str:
    """The AMQP address of a RabbitMQ 4, which tests may use in the same way."""
    return _address("MILLRACE_TEST_RABBITMQ4_URL")


def kafka_url() -> str:
    """The address of a Kafka, in which tests may create topics with their own prefix: kafka://host:port."""
    return _address("MILLRACE_TEST_KAFKA_URL")


def kafkas_url() -> str:
    """The address of the same Kafka over TLS with a SCRAM-SHA-512 user: kafkas://user:password@host:port?cafile=..."""
    return _address("MILLRACE_TEST_KAFKAS_URL")


def control_rabbitmq(*command: str) -> None:
    """Run `start`, `kill`, `restart`, `alarm on|off` or `ctl ...` on the node, and wait for the result.

    Skips the test if the node was not started by `make services`: tests must not kill other servers.
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
        pytest.skip("this server was not started by `make services`: tests must not kill it")
    subprocess.run([ROOT / script, *command], check=True, timeout=110, stdin=subprocess.DEVNULL)


def _address(name: str) -> str:
    if _hidden:
        pytest.skip("without servers")
    value = _look_up(name)
    if value is not None:
        return value
    reason = f"no {name} in the environment or .services.env: run `make services`"
    if os.environ.get("CI"):  # noqa: TID251 - CI is not a setting of the product
        pytest.fail(reason)
    pytest.skip(reason)


def _look_up(name: str) -> str | None:
    return os.environ.get(name) or _written_addresses().get(name)  # noqa: TID251 - as above


def _written_addresses() -> dict[str, str]:
    file = ROOT / ".services.env"
    if not file.exists():
        return {}
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
