"""The commands and snippets of the README and the pages behind it, run one after the other as a reader would."""

from __future__ import annotations

import asyncio
import re
import secrets
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cli.demo import SCENARIOS
from tests.deploy.running import ROOT, Up, has, millrace, remove_channels
from tests.servers import kafka_url, rabbitmq_url

PAGES = [
    ROOT / page
    for page in (
        "README.md",
        "docs/serving.md",
        "docs/experiments.md",
        "docs/demonstration.md",
        "docs/operations.md",
        "docs/dead-letters.md",
        "docs/queue-clients.md",
    )
]
README_LINES = 150
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
FENCE = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = {
    match["mark"] or match["code"][:40]: (match["kind"], match["code"])
    for page in PAGES
    for match in FENCE.finditer(page.read_text("utf-8"))
}

PREFIX = f"readme-{secrets.token_hex(4)}."

# What has to be in the output of each snippet, in the order of the pages.
EMBEDDED = {
    "curl": '"data":[3.0]',
    "predict": '"data":[3.0]',
    "bandit": '{"accepted":true}',
    "tritonclient": "[[3.]\n [7.]]\n[[3.]\n [7.]]",
    "later": "idempotent-replayed: true",
    "python model": '"data":[10.0,20.0,30.0]',
    "torch model": "",
    "ask torch model": '"name":"p"',
    "split": "millrace-arm: v1",
    "feedback": '{"accepted":true}{"accepted":true}',
    "experiment": "set by hand",
    "operate": "unchanged",
    "on call": "no dead letters",
}
RABBITMQ = {"pika": "my 1", "amqp tools": '"name":"sum"', "locust": "AMQP     requests json"}
KAFKA = {"aiokafka": "my 1", "kcat": '"name":"sum"', "locust on kafka": "Kafka    requests json"}
BY_FIXTURE = ("init", "up on rabbitmq")
TOOLS = {"amqp tools": "amqp-publish", "kcat": "kcat"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `init` makes."""
    folder = tmp_path_factory.mktemp("readme")
    assert BLOCKS["run: init"][1] == "millrace init shop\ncd shop\nmillrace up\n"
    assert millrace("init", "shop", folder=folder).returncode == 0
    return folder / "shop"


@pytest.fixture(scope="module")
def embedded(shop: Path) -> Iterator[Up]:
    up = Up(shop, MILLRACE__PREFIX=PREFIX)
    try:
        up.wait_for("ready   http")
        yield up
    finally:
        up.stop()


@pytest.fixture(scope="module")
def on_rabbitmq(embedded: Up) -> Iterator[Up]:
    yield from on_broker(embedded, rabbitmq_url().rstrip("/"))


@pytest.fixture(scope="module")
def on_kafka(on_rabbitmq: Up) -> Iterator[Up]:
    yield from on_broker(on_rabbitmq, kafka_url())


def on_broker(before: Up, url: str) -> Iterator[Up]:
    """Start the same folder on a server, and leave nothing there."""
    before.stop()
    up = Up(before.folder, MILLRACE__PREFIX=PREFIX, MILLRACE__BROKER__URL=url)
    try:
        up.wait_for("ready   http")
        yield up
    finally:
        up.stop()
        models = {"add": 2, "hello": 2, "scale": 1, "softmax": 1}
        asyncio.run(remove_channels(url, PREFIX, models, ["sums"]))


def test_every_block_is_run_or_is_shown_to_be_there() -> None:
    marks = {f"run: {name}" for name in (*EMBEDDED, *RABBITMQ, *KAFKA, *BY_FIXTURE)} | {"make", "demo"}
    drawings = {mark for mark, (kind, _) in BLOCKS.items() if kind == "text"}
    assert set(BLOCKS) - drawings == marks


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text("utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: page.name
)
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = LINK.findall(page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_targets_of_make_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for line in BLOCKS["make"][1].splitlines():
        target = line.removeprefix("make ")
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), line
    assert re.search(r"^bench:", makefile, re.MULTILINE)


def test_every_scenario_of_the_demonstration_is_shown() -> None:
    """Two of them are run, smaller, by the tests of the demonstration."""
    assert BLOCKS["demo"][1].splitlines() == [f"millrace demo --scenario {name}" for name in SCENARIOS]


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_snippet_runs_on_the_embedded_broker_and_again(name: str, embedded: Up) -> None:
    for _ in range(2):
        assert EMBEDDED[name] in run(name, embedded)


def test_locust_is_in_the_environment_of_make_demo() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert any(one.startswith("locust") for one in extras["demo"])
    assert "millrace[demo]" in extras["test"]


@pytest.mark.parametrize("name", RABBITMQ)
def test_a_snippet_runs_on_rabbitmq_and_again(name: str, on_rabbitmq: Up) -> None:
    if name in TOOLS and not has(TOOLS[name]):
        pytest.skip(f"{TOOLS[name]} is not installed")
    for _ in range(2):
        assert RABBITMQ[name] in run(name, on_rabbitmq)


@pytest.mark.parametrize("name", KAFKA)
def test_a_snippet_runs_on_kafka_and_again(name: str, on_kafka: Up) -> None:
    if name in TOOLS and not has(TOOLS[name]):
        pytest.skip(f"{TOOLS[name]} is not installed")
    for _ in range(2):
        assert KAFKA[name] in run(name, on_kafka)


def run(name: str, up: Up) -> str:
    """Run a snippet with the test's ports, broker and prefix in place of the README's; returns its output."""
    kind, code = BLOCKS[f"run: {name}"]
    for old, new in changes(up).items():
        code = code.replace(old, new)
    command = ["bash", "-euo", "pipefail"] if kind == "sh" else [sys.executable]
    snippet = up.folder / f"snippet.{kind}"
    snippet.write_text(code, "utf-8")
    done = subprocess.run(
        [*command, snippet.name],
        cwd=up.folder,
        env=up.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{code}\n{output}\n{up.output()}"
    return output


def changes(up: Up) -> dict[str, str]:
    """Return what differs between the README's reader and this test."""
    url = up.env.get("MILLRACE__BROKER__URL", "")
    return {
        "127.0.0.1:8000": f"127.0.0.1:{up.http_port}",
        "127.0.0.1:8002": f"127.0.0.1:{up.metrics_port}",
        "amqp://guest:guest@localhost": url,
        "localhost:9092": url.removeprefix("kafka://"),
        "millrace.requests.": f"{PREFIX}requests.",
        "millrace.results.": f"{PREFIX}results.",
        "loadtests/locustfile.py": f"{ROOT / 'loadtests/locustfile.py'}",
        " HttpUser ": f" --prefix {PREFIX} HttpUser ",
        "-q mine": f"-q mine-{PREFIX}",
        "-t mine": f"-t mine-{PREFIX}",
    }
