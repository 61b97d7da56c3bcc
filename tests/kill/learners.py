"""Learners as processes, each with a data folder by choice, and a reader of the logs that notes what it takes in."""

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
from router.learning.experiment import read_experiment, spec_of
from router.learning.fold import ExperimentFold
from router.learning.ledger import Ledger, restore_saved
from router.state.view import View
from tests.kill.installation import GRACE_S, until
from tests.router.learning.test_service import requests, send

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
    """One process; `claims` are its terms, the newest last."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path
    instance: str = ""
    claims: list[int] = field(default_factory=list)

    def leads_by_its_log(self) -> bool:
        """Tell whether the process itself thinks so: its last word on it."""
        words = [json.loads(line).get("message", "") for line in self.log.read_text().splitlines() if line[:1] == "{"]
        said = [word for word in words if "leading" in word]
        return bool(said) and said[-1].startswith("leading")


class Learners:
    """A prefix on a broker with one endpoint, its learners, and a view that follows them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._url = url or f"sqlite:///{folder}/broker.db"
        self._channels = Channels(f"k{uuid4().hex[:12]}.")
        self.broker: Broker = connect(self._url, self._channels)
        self.declared: Endpoint = read_endpoint(BANDIT, source="test")
        self.view = View(b"key")
        self.learners: list[Learner] = []
        self.taken: list[tuple[int, int]] = []  # of each snapshot that the view took: its term, and the view's then
        self.said: list[int] = []  # the terms of all snapshots on the log
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
                print(f"learner {number}: {line[:1000]}")  # noqa: T201 - pytest shows it for a test that failed
        channels = self._channels
        for log in (channels.declared, channels.status, channels.events("e")):
            await self.broker.delete(log)
        await self.broker.close()

    def start(self, data: str = "data") -> Learner:
        """Start a learner over a data folder."""
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

    async def leads(self, learner: Learner) -> int:
        """Return the term with which a learner leads, once a snapshot of it was taken."""
        await until(lambda: bool(learner.claims) and learner.claims[-1] == self.view.learned.term == self._term_taken())
        return self.view.learned.term

    async def stand_by(self, learner: Learner) -> None:
        """Return once a learner has said that it is there."""
        await until(lambda: bool(learner.instance))

    async def vacate(self) -> None:
        """Have nobody lead: a claim of somebody who is not there, so that the next one need not wait for a silence."""
        await self.broker.append(self._channels.declared, [write_claim("nobody")])

    async def kill(self, learner: Learner) -> None:
        """Kill a learner with SIGKILL, and see that it is gone."""
        learner.process.kill()
        await asyncio.to_thread(learner.process.wait)

    async def end(self, learner: Learner) -> None:
        """Ask a learner to stop, and wait until it has."""
        learner.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(learner.process.wait, GRACE_S)

    async def ask(self, number: int) -> None:
        """Send requests, decided as a gateway would now, and feedback for some."""
        await send(self.broker, requests(self.view, self.sent, number))
        self.sent += number

    async def end_of_log(self) -> int:
        """Return where the endpoint's event log ends."""
        return await self.broker.end(self._channels.events("e"))

    async def whole(self, end: int) -> ExperimentFold[Any]:
        """Return the fold of the whole log, as far as `end`, by somebody who was never killed."""
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

    async def kept(self, learner: Learner) -> ExperimentFold[Any]:
        """Return what a learner that has ended has left in its ledger."""
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

    def _term_taken(self) -> int:
        said = self.view.snapshot_of("e")
        return -1 if said is None else said.term

    def _fold_declared(self, record: Record) -> None:
        self.view.fold_declared(record)
        claim = read_claim(record)
        for learner in self.learners:
            if claim is not None and learner.instance == claim.instance:
                learner.claims.append(claim.term)
        self._note()

    def _fold_status(self, record: Record) -> None:
        self.view.fold_status(record)
        said, announced = read_snapshot(record), read_status(record)
        if said is not None:
            self.said.append(said.term)
        for learner in self.learners:
            if announced is not None and announced.pid == learner.process.pid:
                learner.instance = announced.instance
        self._note()

    def _note(self) -> None:
        """Note what the view follows, whenever that has changed."""
        said = self.view.snapshot_of("e") if self.view.endpoints() else None
        if said is not None and said is not self._last:
            self._last = said
            self.taken.append((said.term, self.view.learned.term))


def ledger_of(folder: Path) -> tuple[int, int]:
    """Return the term and the offset that a ledger holds now, (-1, 0) while there is none."""
    try:
        connection = apsw.Connection(str(folder / "learner.db"), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.CantOpenError:
        return -1, 0
    with contextlib.closing(connection):
        sql = 'SELECT (SELECT term FROM leader), (SELECT "offset" FROM experiments)'
        term, offset = next(iter(connection.execute(sql)))
    return -1 if term is None else int(term), int(offset or 0)


def is_free(path: Path) -> bool:
    """Tell whether nobody is in the middle of writing a SQLite file."""
    if not path.exists():
        return True
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except apsw.BusyError:
            return False
    return True
