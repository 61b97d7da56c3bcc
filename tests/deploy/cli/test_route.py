"""The output, the questions and the errors of `millrace route`, on the embedded broker with a learner."""

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
from broker.records.routing import OperatorCommand, SnapshotRecord, experiment_of, read_operator_command
from broker.records.status import Announcement, write_announcement
from deploy.cli.plots import HEIGHTS
from deploy.cli.route_control import follows
from deploy.operations.report_html import page
from deploy.operations.route_commands import send_command, wait_for_leader
from deploy.wiring import Installation
from router.evidence.sections import Curves, Table
from router.learning.declared import read_experiment
from router.learning.service import run
from router.learning.settings import CHECK_S, LearnerSettings
from tests.deploy.running import millrace
from tests.router.evidence.logs import split_log
from tests.router.learning.live_learner import requests, send, viewing
from tests.router.learning.traces import TracedRequest, numbered, rows
from tests.waiting import until

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
    """A folder with settings for commands, and its broker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "millrace.yaml").write_text(SETTINGS % (folder / "broker.db"), "utf-8")
        self.installation = Installation.at(folder / "millrace.yaml")
        self.broker: Broker = self.installation.broker()

    async def route(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command without blocking the event loop."""
        return await asyncio.to_thread(millrace, "route", *words, folder=self.folder)

    async def declare(self, policy: dict[str, Any], author: str = "test", name: str = "e") -> None:
        """Declare an endpoint."""
        declaration = {"endpoint": name, "arms": ARMS, "feedback": CLICKED, "policy": policy}
        channels = self.broker.channels
        await self.broker.declare(channels.declared)
        await self.broker.declare(channels.events(name))
        await self.broker.append(
            channels.declared, [endpoint_declared(read_endpoint(declaration, source="test"), author)]
        )

    async def log(self, records: list[Record]) -> None:
        """Append records to the endpoint's event log."""
        for record in records:
            await self.broker.append(self.broker.channels.events("e"), [record.body], dict(record.headers))

    def file(self, policy: dict[str, Any], **more: Any) -> str:
        """Write a declaration, and return the file's name."""
        declaration = {"endpoint": "e", "arms": ARMS, "feedback": CLICKED, "policy": policy, **more}
        (self.folder / "next.yaml").write_text(json.dumps(declaration), "utf-8")
        return "next.yaml"


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    found = Shop(tmp_path)
    async with found.broker:
        yield found


@asynccontextmanager
async def running_learner(shop: Shop, *, check_s: float = CHECK_S) -> AsyncIterator[None]:
    """Run a learner, and wait for its first announcement."""
    stop = asyncio.Event()
    settings = LearnerSettings(instance="learner-1", tick_s=TICK_S, check_s=check_s)
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
    async with running_learner(shop):
        yield


def rows_of(text: str, key: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a section of a JSON report, by their first values."""
    return {str(next(iter(row.values()))): row for row in json.loads(text)[key]["rows"]}


@pytest.mark.usefixtures("learner")
async def test_show_prints_the_leader_the_weights_and_the_statistics(shop: Shop) -> None:
    await shop.declare(BANDIT)
    async with viewing(shop.broker) as view:
        await until(lambda: view.endpoints() and view.learned.term >= 0)
        await send(shop.broker, requests(view, 0, 60))
        await until(lambda: view.router("e").snapshot.weights[1] > 0.9)
    done = await shop.route("show", "e", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = rows_of(done.stdout, "policy")
    assert facts["policy"]["now"] == "thompson"
    assert facts["phase"]["now"] == "learning"
    assert facts["leads"]["now"].startswith("learner-1 (claim")
    assert rows_of(done.stdout, "weights")["b"]["weight"] > 0.9
    learnt = rows_of(done.stdout, "learnt")
    assert sum(row["clicked counted"] for row in learnt.values()) == 60
    assert learnt["b"]["mean"] == 1.0
    assert rows_of(done.stdout, "feedback")["decisions"]["number"] == 60
    output = (await shop.route("show", "e")).stdout
    for line in ("endpoint e", "b    m@2", "Its statistics so far", "█"):
        assert line in output


@pytest.mark.usefixtures("learner")
async def test_a_command_waits_for_a_snapshot_and_prints_the_change(shop: Shop) -> None:
    await shop.declare(CANARY)
    asked = await shop.route("pause", "e")
    assert asked.returncode == 2
    assert "pause c of e" in asked.stderr
    assert "add --yes" in " ".join(asked.stderr.split())
    paused = await shop.route("pause", "e", "--yes", "--author", "ann")
    assert (paused.returncode, "step 1 of 4 (paused)" in paused.stdout) == (0, True), paused.stderr
    set_by_hand = await shop.route("set", "e", "a=50", "b=25", "c=25", "--yes")
    assert "-> step 1 of 4 (set by hand)" in set_by_hand.stdout
    assert "b: 0 -> 0.25" in set_by_hand.stdout
    resumed = await shop.route("resume", "e", "--yes")
    assert "step 1 of 4 (set by hand) -> step 1 of 4\n" in resumed.stdout
    promoted = await shop.route("promote", "e", "--yes")
    assert "step 1 of 4 -> promoted" in promoted.stdout
    assert "c: 0.01 -> 1" in promoted.stdout
    reader = shop.broker.read(shop.broker.channels.events("e"), 0)
    commands = [command for record in await reader.read(1000) if (command := read_operator_command(record))]
    await reader.close()
    assert [command.word for command in commands] == ["pause", "set", "resume", "promote"]
    assert commands[0].author == "ann"
    assert commands[1].author not in ("", "ann")
    shown = await shop.route("show", "e")
    assert "policy: {split: [c]} makes it permanent" in shown.stdout
    guardrails = rows_of((await shop.route("show", "e", "--json")).stdout, "guardrails")
    assert list(guardrails) == ["failed", "slow, over 0.25s"]
    assert guardrails["failed"]["aborts at"] == "40"
    assert guardrails["failed"]["promotes at"] == "20"


async def test_a_command_waits_until_the_learner_has_claimed_leadership(shop: Shop) -> None:
    async with running_learner(shop, check_s=1.5):
        await shop.declare(CANARY)
        paused = await shop.route("pause", "e", "--yes")
    assert (paused.returncode, "step 1 of 4 (paused)" in paused.stdout) == (0, True), paused.stderr


async def test_a_learner_that_died_long_ago_is_not_waited_for(shop: Shop) -> None:
    await shop.declare(CANARY)
    status = shop.broker.channels.status
    await shop.broker.declare(status)
    died = Announcement(instance="learner-0", part="learner", state="ready", at_us=now_us() - 60_000_000)
    await shop.broker.append(status, [write_announcement(died)])
    async with asyncio.timeout(5.0):
        assert not (await wait_for_leader(shop.broker, "e", begun_s=600.0)).is_led


@pytest.mark.usefixtures("learner")
async def test_an_older_snapshot_does_not_follow_a_command(shop: Shop) -> None:
    await shop.declare(CANARY)
    async with viewing(shop.broker) as view:
        await until(lambda: view.snapshot_of("e"))
    routed = await wait_for_leader(shop.broker, "e")
    command = OperatorCommand(word="pause", author="ann", at_us=now_us(), experiment=experiment_of(routed.endpoint))
    snapshot = await send_command(shop.broker, routed, command, lambda snapshot: True, 10.0)
    assert snapshot.at_us >= command.at_us


def test_a_promoted_snapshot_set_by_hand_does_not_follow_promote() -> None:
    endpoint = read_endpoint({"endpoint": "e", "arms": ARMS, "feedback": CLICKED, "policy": CANARY}, source="test")
    command = OperatorCommand(word="promote", author="ann", at_us=now_us(), experiment=experiment_of(endpoint))
    snapshot = SnapshotRecord(
        endpoint="e", experiment=command.experiment, term=1, number=1, weights=(0.0, 0.0, 1.0), phase="promoted"
    )
    assert follows(snapshot, command, endpoint)
    assert not follows(replace(snapshot, phase="promoted (set by hand)"), command, endpoint)


async def test_without_a_learner_a_command_fails_and_appends_nothing(shop: Shop) -> None:
    await shop.declare(CANARY)
    shown = await shop.route("show", "e")
    assert shown.returncode == 0
    assert "no learner leads" in shown.stderr
    assert "millrace learner" in shown.stderr
    assert "no learner so far" in shown.stdout
    done = await shop.route("abort", "e", "--yes")
    assert done.returncode == 1
    assert "no learner leads, so the command would have no effect: start one with `millrace learner`" in " ".join(
        done.stderr.split()
    )
    assert await shop.broker.end(shop.broker.channels.events("e")) == 0


@pytest.mark.parametrize(
    ("policy", "words", "status", "expected"),
    [
        (SPLIT, ("show", "shpo"), 1, "no endpoint 'shpo' is declared; declared: e, other"),
        (SPLIT, ("report", "shpo"), 1, "declared: e, other"),
        (SPLIT, ("pause", "e", "--yes"), 2, "its policy is split, which does not learn"),
        (BANDIT, ("promote", "e", "--yes"), 2, "its policy is thompson, to which promote does not apply"),
        (BANDIT, ("set", "e", "v=1", "--yes"), 2, "endpoint e has no arm 'v'; known arms: a, b, c"),
        (BANDIT, ("set", "e", "a", "--yes"), 2, "'a': write one weight for each arm, such as v1=90"),
        (BANDIT, ("set", "e", "a=0", "--yes"), 2, "the weights sum to 0"),
        (SPLIT, ("replay", "e", "none.yaml"), 2, "none.yaml cannot be read"),
    ],
)
async def test_an_error_names_the_thing_and_the_next_step(
    policy: dict[str, Any], words: tuple[str, ...], status: int, expected: str, shop: Shop
) -> None:
    await shop.declare(policy)
    await shop.declare(SPLIT, name="other")
    done = await shop.route(*words)
    assert (done.returncode, expected in " ".join(done.stderr.split())) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


async def test_show_marks_a_policy_that_does_not_learn(shop: Shop) -> None:
    await shop.declare(SPLIT)
    done = await shop.route("show", "e")
    assert "split: its weights are declared, nothing learns" in done.stdout
    assert "no learner" not in done.stderr


async def test_a_report_of_a_split_estimates_the_value_of_each_arm(shop: Shop) -> None:
    await shop.declare(SPLIT)
    await shop.log(split_log(2000, 1))
    await shop.log(numbered([rows([TracedRequest(number=10**6, arm="a", policy=HOSTILE)]), Record(0, b"junk", {})]))
    done = await shop.route("report", "e", "--json", "--html", "report.html")
    assert done.returncode == 0, done.stderr
    assert rows_of(done.stdout, "log")["decisions that count"]["number"] == 2000
    assert json.loads(done.stdout)["sample ratio"]["alarm"] is False
    values = {(row["policy"], row["estimate"]): row for row in json.loads(done.stdout)["value clicked"]["rows"]}
    assert values["always b", "IPS"]["low"] < 0.5 < values["always b", "IPS"]["high"]
    assert_is_safe((shop.folder / "report.html").read_text("utf-8"))
    output = (await shop.route("report", "e")).stdout
    assert "Sample ratio of decisions" in output
    assert "as it should be" in output
    assert "\x1b" not in output


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
    assert rows_of(done.stdout, "posterior")["b"]["probably the best"] > 0.9
    output = (await shop.route("report", "e")).stdout
    curves = [line.split() for line in output.splitlines() if len({*HEIGHTS} & {*line}) > 1]
    assert [words[0] for words in curves] == ["a", "b", "c"]
    assert {len(words[1]) for words in curves} == {160}  # the width of a terminal with 200 columns


async def test_a_replay_estimates_the_rewards_of_another_split(shop: Shop) -> None:
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
    found = rows_of((await shop.route("simulate", shop.file(BANDIT), *bandit)).stdout, "bandit")
    assert found["runs in which b has 80% at the end"]["value"] == "100 %"
    canary = ("--failures", "a=1%,c=10%", "--runs", "50", "--json")
    found = rows_of((await shop.route("simulate", shop.file(CANARY), *canary)).stdout, "canary")
    assert found["aborted: harm was shown"]["of the runs"] == "100 %"
    ranking = ("--noise", "a=0.05,b=0.6", "--runs", "20", "--for", "2m", "--json")
    policy = {"interleave": ["a", "b"], "credit": "clicked"}
    found = rows_of((await shop.route("simulate", shop.file(policy), *ranking)).stdout, "interleave")
    assert found["runs in which a ranker was proven better"]["value"] == "100 %"


@pytest.mark.parametrize(
    ("policy", "words", "expected"),
    [
        (BANDIT, (), "--means: no value is given for a, b, c: write it as --means a=0.10,b=0.12,c=0.14"),
        (BANDIT, ("--means", "a=2"), "a number from 0 to 1 is expected"),
        (BANDIT, ("--means", "a"), "'a' is not a number for an arm"),
        (BANDIT, ("--traffic", "many"), "'many' is not a rate"),
        (BANDIT, ("--for", "0s"), "--for: '0s' is no time at all"),
        (BANDIT, ("--for", "long"), "--for: 'long' is not a duration"),
        (CANARY, ("--failures", "b=1%"), "'b' is not an arm that is tried; there is: a, c"),
        (SPLIT, (), "its policy learns nothing"),
    ],
)
async def test_a_simulation_names_missing_and_wrong_options(
    policy: dict[str, Any], words: tuple[str, ...], expected: str, shop: Shop
) -> None:
    done = await shop.route("simulate", shop.file(policy), *words)
    assert (done.returncode, expected in " ".join(done.stderr.split())) == (2, True), done.stderr


class Tags(HTMLParser):
    """Collects the tags of a page, and checks that each is closed."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_is_safe(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    assert not tags.seen & {"script", "link", "img", "iframe", "object", "base"}


def test_data_is_escaped_on_an_html_page() -> None:
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
