"""What `millrace route` says, asks and writes, and how its mistakes end; on the embedded broker, with a learner."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.declared import endpoint_declared
from broker.records.endpoint import read_endpoint
from broker.records.routing import OperatorCommand, SnapshotRecord, experiment_of, read_order
from broker.records.status import Announcement, write_announcement
from deploy.cli.plots import HEIGHTS
from deploy.cli.route_orders import follows
from deploy.operations.report_html import page
from deploy.operations.route_commands import give, look_at_led
from deploy.wiring import Installation
from router.evidence.sections import Curves, Table
from router.learning.experiment import read_experiment
from router.learning.service import run
from router.learning.settings import LearnerSettings
from tests.deploy.running import millrace
from tests.router.evidence.logs import split_log
from tests.router.learning.test_service import requests, send, until, viewing
from tests.router.learning.traces import TracedRequest, numbered, rows

TICK_S = 0.02
SETTINGS = 'version: 1\nbroker: {url: "sqlite:///%s"}\n'
ARMS = {"a": "m@1", "b": "m@2", "c": "m@3"}
CLICKED = {"rewards": {"clicked": {"default": 0, "horizon": "5s"}}}
BANDIT = {"bandit": "thompson", "reward": "clicked", "refresh": "2s"}
CANARY = {"canary": "c", "stable": "a", "guardrails": [{"bad": "failed"}, {"bad": "slow", "over": "250ms"}]}
SPLIT = {"split": {"a": 50, "b": 30, "c": 20}}
HOSTILE = "<script>alert('x')</script>[/red]\x1b[2J"

Run = Callable[..., subprocess.CompletedProcess[str]]


class Shop:
    """A folder with settings, in which commands are run, and its broker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "millrace.yaml").write_text(SETTINGS % (folder / "broker.db"), "utf-8")
        self.place = Installation.at(folder / "millrace.yaml")
        self.broker: Broker = self.place.broker()

    async def route(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command, while the loop goes on."""
        return await asyncio.to_thread(millrace, "route", *words, folder=self.folder)

    async def declare(self, policy: dict[str, Any], author: str = "test", name: str = "e") -> None:
        """Declare an endpoint."""
        said = {"endpoint": name, "arms": ARMS, "feedback": CLICKED, "policy": policy}
        channels = self.broker.channels
        await self.broker.declare(channels.declared)
        await self.broker.declare(channels.events(name))
        await self.broker.append(channels.declared, [endpoint_declared(read_endpoint(said, source="test"), author)])

    async def log(self, records: list[Record]) -> None:
        """Append records to the endpoint's event log."""
        for record in records:
            await self.broker.append(self.broker.channels.events("e"), [record.body], dict(record.headers))

    def file(self, policy: dict[str, Any], **more: Any) -> str:
        """Write a declaration, and return the file's name."""
        said = {"endpoint": "e", "arms": ARMS, "feedback": CLICKED, "policy": policy, **more}
        (self.folder / "next.yaml").write_text(json.dumps(said), "utf-8")
        return "next.yaml"


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    found = Shop(tmp_path)
    async with found.broker:
        yield found


@asynccontextmanager
async def learning(shop: Shop) -> AsyncIterator[None]:
    """Run a learner that has said that it is there, and waits for something to learn."""
    stop = asyncio.Event()
    settings = LearnerSettings(instance="learner-1", tick_s=TICK_S)
    ledger = shop.folder / "learner.db"
    task = asyncio.create_task(run(shop.broker, settings, ledger, read_experiment, CollectorRegistry(), stop))
    try:
        async with viewing(shop.broker) as view:
            await until(lambda: "learner-1" in view.processes.newest)
        yield
    finally:
        stop.set()
        await task


@pytest.fixture
async def learner(shop: Shop) -> AsyncIterator[None]:
    async with learning(shop):
        yield


def of(text: str, key: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a section of JSON, by what stands first in them."""
    return {str(next(iter(row.values()))): row for row in json.loads(text)[key]["rows"]}


@pytest.mark.usefixtures("learner")
async def test_show_tells_who_leads_and_what_the_weights_follow_from(shop: Shop) -> None:
    await shop.declare(BANDIT)
    async with viewing(shop.broker) as view:
        await until(lambda: view.endpoints() and view.learned.term >= 0)
        await send(shop.broker, requests(view, 0, 60))
        await until(lambda: view.router("e").snapshot.weights[1] > 0.9)
    done = await shop.route("show", "e", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = of(done.stdout, "policy")
    assert facts["policy"]["now"] == "thompson"
    assert facts["phase"]["now"] == "learning"
    assert facts["leads"]["now"].startswith("learner-1 (claim")
    assert of(done.stdout, "weights")["b"]["weight"] > 0.9
    learnt = of(done.stdout, "learnt")
    assert sum(row["clicked counted"] for row in learnt.values()) == 60
    assert learnt["b"]["mean"] == 1.0
    assert of(done.stdout, "feedback")["decisions"]["number"] == 60
    said = (await shop.route("show", "e")).stdout
    for line in ("endpoint e", "b    m@2", "What it has learnt", "█"):
        assert line in said


@pytest.mark.usefixtures("learner")
async def test_orders_are_followed_and_what_changed_is_said(shop: Shop) -> None:
    await shop.declare(CANARY)
    asked = await shop.route("pause", "e")
    assert asked.returncode == 2
    assert "pause c of e" in asked.stderr
    assert "say --yes" in " ".join(asked.stderr.split())
    paused = await shop.route("pause", "e", "--yes", "--author", "ann")
    assert (paused.returncode, "step 1 of 4 (paused)" in paused.stdout) == (0, True), paused.stderr
    given = await shop.route("set", "e", "a=50", "b=25", "c=25", "--yes")
    assert "-> step 1 of 4 (set by hand)" in given.stdout
    assert "b: 0 -> 0.25" in given.stdout
    resumed = await shop.route("resume", "e", "--yes")
    assert "step 1 of 4 (set by hand) -> step 1 of 4\n" in resumed.stdout
    promoted = await shop.route("promote", "e", "--yes")
    assert "step 1 of 4 -> promoted" in promoted.stdout
    assert "c: 0.01 -> 1" in promoted.stdout
    reader = shop.broker.read(shop.broker.channels.events("e"), 0)
    orders = [order for record in await reader.read(1000) if (order := read_order(record))]
    await reader.close()
    assert [order.word for order in orders] == ["pause", "set", "resume", "promote"]
    assert orders[0].author == "ann"
    assert orders[1].author not in ("", "ann")
    shown = await shop.route("show", "e")
    assert "policy: {split: [c]} makes it permanent" in shown.stdout
    guardrails = of((await shop.route("show", "e", "--json")).stdout, "guardrails")
    assert list(guardrails) == ["failed", "slow, over 0.25s"]
    assert guardrails["failed"]["aborts at"] == "40"
    assert guardrails["failed"]["promotes at"] == "20"


async def test_an_order_may_come_before_the_learner_has_claimed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.learning.service.CHECK_S", 1.5)
    async with learning(shop):
        await shop.declare(CANARY)
        paused = await shop.route("pause", "e", "--yes")
    assert (paused.returncode, "step 1 of 4 (paused)" in paused.stdout) == (0, True), paused.stderr


async def test_a_learner_that_died_long_ago_is_not_waited_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.operations.route_commands.BEGUN_S", 600.0)
    await shop.declare(CANARY)
    status = shop.broker.channels.status
    await shop.broker.declare(status)
    died = Announcement(instance="learner-0", part="learner", state="ready", at_us=now_us() - 60_000_000)
    await shop.broker.append(status, [write_announcement(died)])
    async with asyncio.timeout(5.0):
        assert not (await look_at_led(shop.broker, "e")).is_led


@pytest.mark.usefixtures("learner")
async def test_what_was_said_before_an_order_does_not_follow_it(shop: Shop) -> None:
    await shop.declare(CANARY)
    async with viewing(shop.broker) as view:
        await until(lambda: view.snapshot_of("e"))
    routed = await look_at_led(shop.broker, "e")
    order = OperatorCommand(word="pause", author="ann", at_us=now_us(), experiment=experiment_of(routed.endpoint))
    said = await give(shop.broker, routed, order, lambda said: True, 10.0)
    assert said.at_us >= order.at_us


def test_a_promotion_by_hand_is_followed_once_no_hand_holds_it() -> None:
    endpoint = read_endpoint({"endpoint": "e", "arms": ARMS, "feedback": CLICKED, "policy": CANARY}, source="test")
    order = OperatorCommand(word="promote", author="ann", at_us=now_us(), experiment=experiment_of(endpoint))
    said = SnapshotRecord(
        endpoint="e", experiment=order.experiment, term=1, number=1, weights=(0.0, 0.0, 1.0), phase="promoted"
    )
    assert follows(said, order, endpoint)
    assert not follows(replace(said, phase="promoted (set by hand)"), order, endpoint)


async def test_without_a_learner_it_is_said_and_no_order_is_left_behind(shop: Shop) -> None:
    await shop.declare(CANARY)
    shown = await shop.route("show", "e")
    assert shown.returncode == 0
    assert "no learner leads" in shown.stderr
    assert "millrace learner" in shown.stderr
    assert "nobody, ever" in shown.stdout
    done = await shop.route("abort", "e", "--yes")
    assert done.returncode == 1
    assert "no learner leads, so nobody would obey: start one with `millrace learner`" in " ".join(done.stderr.split())
    assert await shop.broker.end(shop.broker.channels.events("e")) == 0


@pytest.mark.parametrize(
    ("policy", "words", "status", "said"),
    [
        (SPLIT, ("show", "shpo"), 1, "no endpoint 'shpo' is declared; there is: e, other"),
        (SPLIT, ("report", "shpo"), 1, "there is: e, other"),
        (SPLIT, ("pause", "e", "--yes"), 2, "its policy is split, which does not learn"),
        (BANDIT, ("promote", "e", "--yes"), 2, "its policy is thompson, which has nothing to promote"),
        (BANDIT, ("set", "e", "v=1", "--yes"), 2, "endpoint e has no arm 'v'; known arms: a, b, c"),
        (BANDIT, ("set", "e", "a", "--yes"), 2, "'a': weights are written once for each arm, such as v1=90"),
        (BANDIT, ("set", "e", "a=0", "--yes"), 2, "the weights sum to 0"),
        (SPLIT, ("replay", "e", "none.yaml"), 2, "none.yaml cannot be read"),
    ],
)
async def test_a_mistake_names_the_thing_and_the_way_out(
    policy: dict[str, Any], words: tuple[str, ...], status: int, said: str, shop: Shop
) -> None:
    await shop.declare(policy)
    await shop.declare(SPLIT, name="other")
    done = await shop.route(*words)
    assert (done.returncode, said in " ".join(done.stderr.split())) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


async def test_a_policy_that_does_not_learn_says_so(shop: Shop) -> None:
    await shop.declare(SPLIT)
    done = await shop.route("show", "e")
    assert "split: its weights are declared, nothing learns" in done.stdout
    assert "no learner" not in done.stderr


async def test_a_report_of_a_split_says_what_arms_are_worth(shop: Shop) -> None:
    await shop.declare(SPLIT)
    await shop.log(split_log(2000, 1))
    await shop.log(numbered([rows([TracedRequest(number=10**6, arm="a", policy=HOSTILE)]), Record(0, b"junk", {})]))
    done = await shop.route("report", "e", "--json", "--html", "report.html")
    assert done.returncode == 0, done.stderr
    assert of(done.stdout, "log")["decisions that count"]["number"] == 2000
    assert json.loads(done.stdout)["sample ratio"]["alarm"] is False
    values = {(row["policy"], row["estimate"]): row for row in json.loads(done.stdout)["value clicked"]["rows"]}
    assert values["always b", "IPS"]["low"] < 0.5 < values["always b", "IPS"]["high"]
    assert_is_safe((shop.folder / "report.html").read_text("utf-8"))
    said = (await shop.route("report", "e")).stdout
    assert "Sample ratio of decisions" in said
    assert "as it should be" in said
    assert "\x1b" not in said


@pytest.mark.usefixtures("learner")
async def test_a_report_of_a_bandit_shows_its_weights_over_time(shop: Shop) -> None:
    await shop.declare(BANDIT)
    async with viewing(shop.broker) as view:
        await until(lambda: view.endpoints() and view.learned.term >= 0)
        for begin in range(0, 90, 30):
            before = view.router("e").snapshot.number
            await send(shop.broker, requests(view, begin, 30))
            await until(lambda before=before: view.router("e").snapshot.number > before)  # type: ignore[misc]
    done = await shop.route("report", "e", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["weights"]["rows"]) >= 3
    assert of(done.stdout, "posterior")["b"]["probably the best"] > 0.9
    said = (await shop.route("report", "e")).stdout
    curves = [line.split() for line in said.splitlines() if len({*HEIGHTS} & {*line}) > 1]
    assert [words[0] for words in curves] == ["a", "b", "c"]
    assert {len(words[1]) for words in curves} == {160}  # as many as a terminal of 200 columns shows


async def test_a_replay_tells_what_another_split_would_have_earned(shop: Shop) -> None:
    await shop.declare(SPLIT)
    await shop.log(split_log(2000, 2))
    done = await shop.route("replay", "e", shop.file({"split": {"b": 90, "a": 5, "c": 5}}), "--json")
    assert done.returncode == 0, done.stderr
    rows_ = json.loads(done.stdout)["value clicked"]["rows"]
    assert [row["remark"] for row in rows_] == ["", "more than the log", "more than the log", "more than the log"]
    refused = await shop.route("replay", "e", shop.file(CANARY))
    assert refused.returncode == 2
    assert "a split or a bandit can be replayed" in " ".join(refused.stderr.split())


async def test_policies_are_simulated_before_they_are_declared(shop: Shop) -> None:
    bandit = ("--traffic", "10/s", "--for", "10m", "--means", "a=0.1,b=0.6,c=0.1", "--runs", "20", "--json")
    found = of((await shop.route("simulate", shop.file(BANDIT), *bandit)).stdout, "bandit")
    assert found["runs in which b has 80% at the end"]["value"] == "100 %"
    canary = ("--failures", "a=1%,c=10%", "--runs", "50", "--json")
    found = of((await shop.route("simulate", shop.file(CANARY), *canary)).stdout, "canary")
    assert found["aborted: harm was shown"]["of the runs"] == "100 %"
    ranking = ("--noise", "a=0.05,b=0.6", "--runs", "20", "--for", "2m", "--json")
    policy = {"interleave": ["a", "b"], "credit": "clicked"}
    found = of((await shop.route("simulate", shop.file(policy), *ranking)).stdout, "interleave")
    assert found["runs in which a ranker was proven better"]["value"] == "100 %"


@pytest.mark.parametrize(
    ("policy", "words", "said"),
    [
        (BANDIT, (), "--means: no value is given for a, b, c: write it as --means a=0.10,b=0.12,c=0.14"),
        (BANDIT, ("--means", "a=2"), "a number from 0 to 1 is expected"),
        (BANDIT, ("--means", "a"), "'a' is no number of an arm"),
        (BANDIT, ("--traffic", "many"), "'many' is no rate"),
        (BANDIT, ("--for", "0s"), "--for: '0s' is no time to try a policy in"),
        (BANDIT, ("--for", "long"), "--for: 'long' is not a duration"),
        (CANARY, ("--failures", "b=1%"), "'b' is not an arm that is tried; there is: a, c"),
        (SPLIT, (), "its policy learns nothing"),
    ],
)
async def test_what_a_simulation_needs_is_asked_for(
    policy: dict[str, Any], words: tuple[str, ...], said: str, shop: Shop
) -> None:
    done = await shop.route("simulate", shop.file(policy), *words)
    assert (done.returncode, said in " ".join(done.stderr.split())) == (2, True), done.stderr


class Tags(HTMLParser):
    """Which tags a page has, and whether each is closed."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        assert self.open.pop() == tag


def assert_is_safe(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    assert not tags.seen & {"script", "link", "img", "iframe", "object", "base"}


def test_nothing_of_the_data_is_markup_on_a_page() -> None:
    table = Table(key="k", title=HOSTILE, columns=(HOSTILE,), rows=[(HOSTILE,), (0.5,), (None,)], notes=[HOSTILE])
    curves = Curves(
        key="c",
        title=HOSTILE,
        names=(HOSTILE, '"><b>'),
        at_us=[0, 10],
        values=[(0.5, 0.5), (1.0, 0.0)],
        until_us=20,
        notes=[HOSTILE],
    )
    text = page(HOSTILE, [table, curves])
    assert_is_safe(text)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 10
    assert "<svg" in text
    assert "\x1b" not in text
