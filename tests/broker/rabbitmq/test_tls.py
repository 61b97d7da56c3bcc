"""RabbitMQ over TLS: which certificates are trusted, and the errors for the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.channels import Channels
from broker.errors import Misconfigured
from broker.rabbitmq.adapter import RabbitBroker
from broker.rabbitmq.address import RabbitAddress
from tests.servers import amqps_url


async def test_a_broker_whose_ca_is_named_is_trusted() -> None:
    async with RabbitBroker(amqps_url(), Channels()) as broker:
        await broker.ping()


@pytest.mark.parametrize("wrong", ["no cafile", "another name"])
async def test_a_broker_that_cannot_be_trusted_is_a_wrong_setting(wrong: str) -> None:
    url = amqps_url()
    url = url.split("?")[0] if wrong == "no cafile" else url.replace("127.0.0.1", "localhost")
    broker = RabbitBroker(url, Channels())
    with pytest.raises(Misconfigured, match=r"not trusted.*cafile="):
        await broker.open()
    await broker.close()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_cafile_that_cannot_be_read_is_a_wrong_setting(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Misconfigured, match=r"ca\.pem") as caught:
        RabbitAddress.of(f"amqps://guest:secret-word@host/?cafile={file}")
    assert "secret-word" not in str(caught.value)


def test_a_cafile_without_tls_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="must begin with amqps://"):
        RabbitAddress.of(f"amqp://host/?cafile={tmp_path}")


def test_the_other_options_of_a_url_are_kept() -> None:
    parameters = RabbitAddress.of("amqps://u:p%2Fw@host:1/a%2Fb?heartbeat=7").parameters("tests")
    login = parameters.credentials
    seen = (login.username, login.password, parameters.host, parameters.port, parameters.virtual_host)
    assert (*seen, parameters.heartbeat) == ("u", "p/w", "host", 1, "a/b", 7)
