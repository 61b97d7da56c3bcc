"""The broker of docs/extending/broker.md is found by its entry point, and keeps the contract as far as it promises."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contract.broker_contract import BrokerContract
from tests.contract.installation import Installation

PAGE = (Path(__file__).parents[2] / "docs/extending/broker.md").read_text("utf-8")
CODE = re.compile(r"<!-- code: (\S+) -->\n```python\n(.*?)```", re.DOTALL)
TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)

NO_LIMITS = "it has no limits"
NO_DELAYS = "it has no delays"
LEFT_OUT = {
    "test_a_full_queue_refuses_rather_than_waits": NO_LIMITS,
    "test_a_queue_full_of_bytes_refuses": NO_LIMITS,
    "test_a_full_queue_accepts_messages_again_once_there_is_room": NO_LIMITS,
    "test_a_full_output_queue_drops_its_oldest": NO_LIMITS,
    "test_reading_below_the_first_offset_is_a_gap": NO_LIMITS,
    "test_a_reader_of_a_log_that_is_trimmed_meets_no_gap": NO_LIMITS,
    "test_a_delayed_message_is_delivered_after_its_delay": NO_DELAYS,
    "test_a_message_may_be_delayed_again_and_again": NO_DELAYS,
    "test_the_reader_of_a_log_that_was_made_again_gets_a_gap": "its readers do not notice it",
    "test_a_dead_process_gives_back_what_it_held": "it forgets everything with its process",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's code as an installed distribution with the page's entry point."""
    folder = tmp_path_factory.mktemp("site-packages")
    [(name, code)] = CODE.findall(PAGE)
    (folder / name).write_text(code, "utf-8")
    [toml] = TOML.findall(PAGE)
    project = tomllib.loads(toml)["project"]
    [(group, points)] = project["entry-points"].items()
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", "utf-8"
    )
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]), "utf-8")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.mark.usefixtures("installed")
class TestMemory(BrokerContract):
    """The contract, without what the page says that it leaves out."""

    @pytest.fixture(autouse=True)
    def left_out(self, request: pytest.FixtureRequest) -> None:
        name = request.function.__name__
        if name in LEFT_OUT:
            pytest.skip(LEFT_OUT[name])

    @pytest.fixture
    async def installation(self) -> AsyncIterator[Installation]:
        async with Installation(f"memory://{uuid4()}", user=None) as installation:
            yield installation


def test_every_test_that_is_left_out_is_one_of_the_contract() -> None:
    assert set(dir(BrokerContract)) >= set(LEFT_OUT)
