"""Learners as processes with chosen data folders, and a view that records the snapshots it accepts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import apsw

from broker.base import Broker
from broker.channels import Channels
from broker.connect import connect
from broker.delivery.log_follower import LogFollower
from broker.messages import Record
from broker.records.declared import endpoint_declared
from broker.records.endpoint import Endpoint, read_endpoint
from broker.records.routing import read_claim, read_snapshot, write_claim
from broker.records.status import read_status
from router.learning.declared import read_experiment
from router.learning.experiment import spec_of
from router.learning.fold import ExperimentFold
from router.learning.ledger import Ledger, restore_saved
from router.state.view import View
from tests.kill.installation import GRACE_S
from tests.router.learning.live_learner import requests, send
from tests.waiting import until

TICK = "50ms"
HORIZON = "5s"
SETTINGS = 'prefix: %s\ndata: "%s"\nbroker: {url: "%s"}\nlearner: {tick: %s}\nmetrics: {port: 0}\n'
BANDIT = {
    "endpoint": "e",
    "arms": {"a": "m@1", "b": "m@2", "c": "m@3"},
    "policy": {"bandit": "thompson", "reward": "clicked", "refresh": "1s", "floor": 0.05},
    "feedback": {"rewards": {"clicked": {"default": 0, "horizon": HORIZON}}},
}


@dataclass(slots=True)
class Learner:
    """One learner process; `claims` are its terms, the newest last."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path
    instance: str = ""
    claims: list[int] = field(default_factory=list)

    def leads_by_its_log(self) -> bool:
        """Return True if the process takes itself for the leader, by the last log line about it."""
        lines = [json.loads(line).get("message", "") for line in self.log.read_text().splitlines() if line[:1] == "{"]
        about = [line for line in lines if "leading" in line]
        return bool(about) and about[-1].startswith("leading")


class Learners:
    """One endpoint on a broker, its learners, and a view that follows them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._url = url or f"sqlite:///{folder}/broker.db"
        self._channels = Channels(f"k{uuid4().hex[:12]}.")
        self.broker: Broker = connect(self._url, self._channels)
        self.declared: Endpoint = read_endpoint(BANDIT, source="test")
        self.view = View(b"key")
        self.learners: list[Learner] = []
        self.accepted: list[tuple[int, int]] = []  # for each snapshot that the view accepted: its term, the view's term
        self.snapshot_terms: list[int] = []  # the terms of all snapshots on the log
        self.sent = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._last: Any = None

    async def __aenter__(self) -> Self:
        await self.broker.open()
        channels = self._channels
        for log in (channels.declared, channels.status, channels.events("e")):
            await self.broker.declare(log)
        await self.broker.append(channels.declared, [endpoint_declared(self.declared, "test")])
        for log, fold in ((channels.declared, self._fold_declared), (channels.status, self._fold_status)):
            self._tasks.append(asyncio.create_task(LogFollower(self.broker, log, 0, fold).run()))
        await until(lambda: bool(self.view.endpoints()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for learner in self.learners:
            learner.process.kill()
            learner.process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for number, learner in enumerate(self.learners):
            for line in learner.log.read_text(errors="replace").splitlines()[-20:]:
                print(f"learner {number}: {line[:1000]}")  # noqa: T201 - pytest shows it if the test failed
        channels = self._channels
        for log in (channels.declared, channels.status, channels.events("e")):
            await self.broker.delete(log)
        await self.broker.close()

    def start(self, data: str = "data") -> Learner:
        """Start a learner with a data folder."""
        number = len(self.learners)
        path = self.folder / f"learner-{number}.yaml"
        path.write_text(SETTINGS % (self._channels.prefix, data, self._url, TICK))
        log = self.folder / f"learner-{number}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "deploy.part", str(path), "learner"]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        learner = Learner(process, self.folder / data, log)
        self.learners.append(learner)
        return learner

    async def wait_until_leading(self, learner: Learner) -> int:
        """Wait until the view has accepted a snapshot of a learner; returns its term."""
        await until(
            lambda: bool(learner.claims) and learner.claims[-1] == self.view.learned.term == self._accepted_term()
        )
        return self.view.learned.term

    async def wait_until_announced(self, learner: Learner) -> None:
        """Wait for the first announcement of a learner."""
        await until(lambda: bool(learner.instance))

    async def claim_for_absent_learner(self) -> None:
        """Append the claim of a learner that does not exist: the next one then claims without waiting for a timeout."""
        await self.broker.append(self._channels.declared, [write_claim("nobody")])

    async def kill(self, learner: Learner) -> None:
        """Kill a learner with SIGKILL, and wait for its end."""
        learner.process.kill()
        await asyncio.to_thread(learner.process.wait)

    async def end(self, learner: Learner) -> None:
        """Stop a learner with SIGTERM, and wait for its end."""
        learner.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(learner.process.wait, GRACE_S)

    async def send_requests(self, number: int) -> None:
        """Append the rows of requests, decided as a gateway would now, and feedback for some of them."""
        await send(self.broker, requests(self.view, self.sent, number))
        self.sent += number

    async def end_of_log(self) -> int:
        """The end offset of the endpoint's event log."""
        return await self.broker.end(self._channels.events("e"))

    async def fold_log(self, end: int) -> ExperimentFold[Any]:
        """Fold the log up to `end` without an interruption."""
        experiment = read_experiment(self.declared)
        assert experiment is not None
        fold: ExperimentFold[Any] = ExperimentFold(spec_of(self.declared), experiment)
        reader = self.broker.read(self._channels.events("e"), 0)
        while fold.progress.offset < end:
            for record in await reader.read(500):
                if record.offset < end:
                    fold.apply(record)
                fold.progress.offset = max(fold.progress.offset, min(end, record.offset + 1))
        await reader.close()
        return fold

    async def load_fold(self, learner: Learner) -> ExperimentFold[Any]:
        """Load the fold from the ledger of a learner that has ended."""
        experiment = read_experiment(self.declared)
        assert experiment is not None
        fold: ExperimentFold[Any] = ExperimentFold(spec_of(self.declared), experiment)
        ledger = Ledger(learner.folder / "learner.db")
        await ledger.open()
        kept = await ledger.load("e", fold.spec.experiment)
        await ledger.close()
        assert kept is not None
        restore_saved(fold, kept)
        return fold

    def _accepted_term(self) -> int:
        snapshot = self.view.snapshot_of("e")
        return -1 if snapshot is None else snapshot.term

    def _fold_declared(self, record: Record) -> None:
        self.view.fold_declared(record)
        claim = read_claim(record)
        for learner in self.learners:
            if claim is not None and learner.instance == claim.instance:
                learner.claims.append(claim.term)
        self._note()

    def _fold_status(self, record: Record) -> None:
        self.view.fold_status(record)
        snapshot, announcement = read_snapshot(record), read_status(record)
        if snapshot is not None:
            self.snapshot_terms.append(snapshot.term)
        for learner in self.learners:
            if announcement is not None and announcement.pid == learner.process.pid:
                learner.instance = announcement.instance
        self._note()

    def _note(self) -> None:
        """Record the view's snapshot if it has changed."""
        snapshot = self.view.snapshot_of("e") if self.view.endpoints() else None
        if snapshot is not None and snapshot is not self._last:
            self._last = snapshot
            self.accepted.append((snapshot.term, self.view.learned.term))


def ledger_of(folder: Path) -> tuple[int, int]:
    """The present term and offset of a ledger, (-1, 0) if there is none."""
    try:
        connection = apsw.Connection(str(folder / "learner.db"), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.CantOpenError:
        return -1, 0
    with contextlib.closing(connection):
        sql = 'SELECT (SELECT term FROM leader), (SELECT "offset" FROM experiments)'
        term, offset = next(iter(connection.execute(sql)))
    return -1 if term is None else int(term), int(offset or 0)


def is_free(path: Path) -> bool:
    """Return True if no process is writing a SQLite file."""
    if not path.exists():
        return True
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except apsw.BusyError:
            return False
    return True
