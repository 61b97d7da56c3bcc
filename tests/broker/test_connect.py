"""The broker for a URL: built in, or an entry point of another distribution."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from broker.channels import Channels
from broker.connect import BUILT_IN, connect
from broker.errors import Misconfigured
from broker.sqlite.adapter import SqliteBroker

ADAPTER = """
from pathlib import Path
from broker.sqlite.adapter import SqliteBroker

class MemoryBroker(SqliteBroker):
    def __init__(self, url, channels):
        super().__init__(Path(url.partition("://")[2]), channels)
        self.url = url

def no_broker(url, channels):
    return url
"""
ENTRY_POINTS = """[millrace.brokers]
memory = other_adapter:MemoryBroker
nothing = other_adapter:no_broker
gone = other_adapter_that_is_missing:Broker
sqlite = other_adapter:no_broker
"""


@pytest.fixture
def _other_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution with adapters of its own."""
    info = tmp_path / "other_adapter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-adapter\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, "utf-8")
    (tmp_path / "other_adapter.py").write_text(ADAPTER, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "other_adapter", raising=False)


@pytest.mark.usefixtures("_other_distribution")
def test_an_entry_point_of_another_distribution_adds_a_scheme(tmp_path: Path) -> None:
    channels = Channels("shop.")
    broker = connect(f"memory://{tmp_path / 'file.db'}", channels)
    assert type(broker).__name__ == "MemoryBroker"
    assert broker.channels is channels


@pytest.mark.usefixtures("_other_distribution")
def test_an_entry_point_does_not_replace_a_built_in_broker(tmp_path: Path) -> None:
    assert type(connect(f"sqlite:///{tmp_path / 'file.db'}", Channels())) is SqliteBroker


@pytest.mark.usefixtures("_other_distribution")
@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("gone://x", "the adapter other_adapter_that_is_missing:Broker for gone cannot be imported"),
        ("nothing://x", "the adapter other_adapter:no_broker for nothing returned no broker: str"),
    ],
)
def test_a_broken_entry_point_is_named(url: str, error: str) -> None:
    with pytest.raises(Misconfigured, match=error):
        connect(url, Channels())


@pytest.mark.usefixtures("_other_distribution")
def test_the_error_for_an_unknown_scheme_names_all_known_ones() -> None:
    with pytest.raises(Misconfigured) as caught:
        connect("redis://host", Channels())
    message = str(caught.value)
    assert message.startswith("broker.url begins with 'redis'; known schemes are amqp, amqps, gone, kafka, kafkas, ")
    assert all(scheme in message for scheme in [*BUILT_IN, "memory"])


@pytest.mark.parametrize("url", ["user:hidden@host", "hidden"])
def test_an_url_without_a_scheme_is_not_quoted(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"broker\.url begins with no scheme") as caught:
        connect(url, Channels())
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [("amqp://host", "RabbitBroker"), ("kafka://host", "KafkaBroker"), ("sqlite:///file.db", "SqliteBroker")],
)
def test_a_built_in_broker_is_found_by_its_scheme(url: str, name: str) -> None:
    assert type(connect(url, Channels())).__name__ == name
