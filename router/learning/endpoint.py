"""One endpoint's learner: it folds the event log, keeps the ledger, and says what follows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from broker.base import Broker, Reader
from broker.errors import Gap, TryAgain, Unreachable
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.routing import (
    ExperimentResult,
    LearnerCheckpoint,
    LogPosition,
    SnapshotRecord,
    Tick,
    write_checkpoint,
    write_experiment_result,
    write_operator_command,
    write_snapshot,
    write_tick,
)
from router.learning.experiment import Experiment
from router.learning.fold import ExperimentFold, ExperimentSpec
from router.learning.ledger import LeaderSuperseded, Ledger, SavedState, digest, take_up
from router.learning.metrics import LearnerMetrics
from router.learning.search import CheckpointSearch
from router.learning.sentences import brings, sentence

log = logging.getLogger(__name__)

READ_AT_ONCE = 1000
PAUSE_S = 0.5
REPEAT_S = 10.0
ABOUT_S = 1.0
CHECKPOINT_S = 60.0
CHECKPOINT_BYTES_A_MINUTE = 256 * 1024
LOOK_BACK_S = 10.0
UNREAD_S = 5.0
LEAVE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """How a learner runs. `tick_s` is how long a second of the logs' clock takes; shorter only to show or to test."""

    instance: str
    tick_s: float = 1.0
    metrics_port: int = 0

    @property
    def repeat_s(self) -> float:
        """How soon a snapshot is said again that is still the newest: ten seconds of the logs' clock, at most ten."""
        return REPEAT_S * min(1.0, self.tick_s)


class EndpointLearner:
    """Learns for one endpoint while this process leads."""

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        subject: ExperimentSpec,
        experiment: Experiment[Any],
        settings: LearnerSettings,
        metrics: LearnerMetrics,
        term: int,
        verdict: ExperimentResult | None = None,
    ) -> None:
        """`verdict` is how this experiment has ended before, if it has."""
        self._broker = broker
        self._ledger = ledger
        self._experiment = experiment
        self._settings = settings
        self._metrics = metrics
        self._term = term
        self._verdict = verdict  # until it is repeated, if it has to be
        self._known = verdict
        self._log = broker.channels.events(subject.endpoint)
        self.subject = subject
        self.fold = ExperimentFold(subject, experiment)
        self.gap = False
        self._whole = True  # nothing of this fold is in the ledger yet
        self._said: tuple[tuple[int, str], float] = ((-1, ""), 0.0)  # the newest snapshot and phase said, and when
        self._said_at = -1  # what was folded by then
        self._speaks_from = 0  # before it what is known is older than what the last leader has said
        self._sent: tuple[int, float] = (0, 0.0)  # the newest tick that was sent, and when
        self._saying = asyncio.Lock()
        self._kept_s = 0.0
        self._kept_at = -1
        self._leaves = False
        self._silent = False  # until the first snapshot: those who know the verdict know better

    async def run(self) -> None:
        """Learn until cancelled; raises Superseded when somebody else writes the ledger."""
        await self._broker.declare(self._log)
        self._speaks_from = await self._broker.end(self._log)
        await self._take_up()
        try:
            async with asyncio.TaskGroup() as group:  # without time nothing would ever be credited: both, or none
                group.create_task(self._keep_time(), name=f"ticks-{self.subject.endpoint}")
                group.create_task(self._keep_reading(), name=f"reading-{self.subject.endpoint}")
        except asyncio.CancelledError:
            if self._leaves:
                await self._leave()
            raise

    def leave(self) -> None:
        """Leave a checkpoint when cancelled: another experiment comes, and the ledger has room for one an endpoint."""
        self._leaves = True

    async def _leave(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._append(*write_checkpoint(self.fold.checkpoint()))

    async def _keep_reading(self) -> None:
        while True:
            await self._read()

    # -- where to begin

    async def _take_up(self) -> None:
        """Go on from the ledger, else from the newest checkpoint, else begin; raises TryAgain if no broker answers."""
        kept = await self._load()
        if kept is None or not await self._is_of_this_log(kept) or not self._restored(kept):
            await self._take_up_from_log()

    async def _load(self) -> SavedState | None:
        try:
            return await self._ledger.load(self.subject.endpoint, self.subject.experiment)
        except Exception as exc:  # noqa: BLE001 - whatever it holds, it is a copy of what the log says
            self._say_unread(exc)
            return None

    def _restored(self, kept: SavedState) -> bool:
        try:
            take_up(self.fold, kept)
        except Exception as exc:  # noqa: BLE001 - as above
            self._say_unread(exc)
            return False
        self._whole = False
        return True

    def _say_unread(self, exc: Exception) -> None:
        name, kind = self.subject.endpoint, type(exc).__name__
        log.warning("endpoint %s: the ledger cannot be read (%s: %s); the log is", name, kind, exc)

    async def _is_of_this_log(self, kept: SavedState) -> bool:
        """Tell whether the log says what the ledger folded last; one of another broker, or made anew, does not."""
        offset = kept.at.offset
        if offset > await self._broker.end(self._log):
            return False
        if not kept.last or not offset:
            return True
        reader = self._broker.read(self._log, offset - 1)
        try:
            async with asyncio.timeout(LOOK_BACK_S):
                record = (await reader.read(1))[0]
        except Gap:  # it has been trimmed meanwhile: what follows it is read, or missed
            return True
        except TimeoutError as exc:
            raise Unreachable(f"{self._log}: record {offset - 1} did not come within {LOOK_BACK_S:g} s") from exc
        finally:
            await reader.close()
        if record.offset == offset - 1 and digest(record.body) != kept.last:
            log.warning(
                "endpoint %s: the ledger is of another log; it is learnt anew from this one", self.subject.endpoint
            )
            return False
        return True

    async def _take_up_from_log(self) -> None:
        self.fold = ExperimentFold(self.subject, self._experiment)
        found = await CheckpointSearch(self._broker, self._log, self.subject.experiment).run()
        here = LogPosition(offset=found.end, number=found.tick, at_us=now_us())
        if found.checkpoint is not None and found.newest == self.subject.experiment and self._resumed(found.checkpoint):
            return
        if found.checkpoint is not None and self._resumed(found.checkpoint):
            self.fold.go_on(here)  # what came meanwhile belongs to the experiment that was declared meanwhile
        elif found.is_used:
            self.fold.begin(here)
        else:
            self.fold.begin(LogPosition(offset=found.first, number=0, at_us=0))
        place = here if found.is_used else LogPosition(offset=found.first, number=0, at_us=0)
        self._kept_at = place.offset
        await self._append(*write_checkpoint(self.fold.checkpoint()))

    def _resumed(self, checkpoint: LearnerCheckpoint) -> bool:
        """Take up from a checkpoint; False if its state is of another form, and then nothing is known."""
        self.fold = ExperimentFold(self.subject, self._experiment)
        try:
            self.fold.resume(checkpoint)
        except ValueError as exc:
            log.warning("endpoint %s: its checkpoint cannot be read: %s", self.subject.endpoint, exc)
            self.fold = ExperimentFold(self.subject, self._experiment)
            return False
        return True

    # -- reading

    async def _read(self) -> None:
        """Read on until records are missing; returns if it can go on behind them."""
        reader = self._broker.read(self._log, self.fold.offset)
        try:
            while True:
                await self._step(reader)
        except Gap as gap:
            await self._stop_at(gap)
        finally:
            await reader.close()

    async def _step(self, reader: Reader) -> None:
        """Fold what there is, commit it, and say what is new."""
        try:
            records = await reader.read(READ_AT_ONCE)
        except TryAgain:
            await asyncio.sleep(PAUSE_S)
            return
        for record in records:
            self._apply(record)
        await self._save()
        await self._say()
        await self._keep()
        self._metrics.show(self.fold)
        await asyncio.sleep(0)

    def _apply(self, record: Record) -> None:
        try:
            self.fold.apply(record)
        except Exception:  # a record that breaks the fold must not stop what all others teach
            log.exception("endpoint %s: record %d could not be folded", self.subject.endpoint, record.offset)

    async def _save(self) -> None:
        try:
            await self._ledger.save(self.fold, whole=self._whole)
            self._whole = False
        except LeaderSuperseded:
            raise
        except TryAgain as exc:
            self._whole = True  # what was to be written is not known any more: next time all is
            log.warning("endpoint %s: %s", self.subject.endpoint, exc)

    async def _stop_at(self, gap: Gap) -> None:
        """Records are gone that were not folded: go on from a checkpoint behind them, else say so and keep still."""
        if gap.is_recreated:
            await self._go_on_anew()
            return
        log.error("endpoint %s: records %d to %d are gone", self.subject.endpoint, gap.start, gap.end)
        found = await CheckpointSearch(self._broker, self._log, self.subject.experiment).run()
        checkpoint = found.checkpoint
        if checkpoint is not None and checkpoint.rebuild.offset >= gap.end and self._resumed(checkpoint):
            self._whole = True
            return
        self.gap = True
        self._metrics.gap(self.subject.endpoint)
        log.error(
            "endpoint %s: nothing is learnt any more; its last weights stay. Declare it with another `experiment`"
            " to begin anew",
            self.subject.endpoint,
        )
        while True:
            await self._say()
            await asyncio.sleep(self._settings.repeat_s)

    async def _go_on_anew(self) -> None:
        """Go on with what is known in the log that has the place of the one that was deleted.

        A checkpoint is its first word: whoever takes up from the log alone knows the same.
        """
        log.error(
            "endpoint %s: its event log was deleted; what was learnt stays, what waited for feedback is lost",
            self.subject.endpoint,
        )
        self.fold.go_on(LogPosition(offset=0, number=self.fold.tick, at_us=now_us()))
        self._whole, self._speaks_from, self._said_at, self._kept_at, self._sent = True, 0, -1, -1, (0, 0.0)
        await self._append(*write_checkpoint(self.fold.checkpoint()))

    # -- saying

    async def _say(self) -> None:
        """Say what is new, one task at a time: whoever reads and whoever keeps the time would both say it."""
        async with self._saying:
            await self._say_snapshot()

    async def _say_snapshot(self) -> None:
        """Publish the newest snapshot, if it or the phase is new, or was said long ago.

        An order that no snapshot says yet is waited for: its phase comes with its weights.
        """
        snapshot, now, phase = self.fold.snapshot, time.monotonic(), self._phase
        if self.fold.offset >= self._speaks_from:
            await self._repeat_verdict()
        self._silent = self._silent and len(self.fold.published) == 1
        if (self.fold.offset < self._speaks_from or self.fold.is_ordered) and not self.gap:
            return
        if self._silent or ((snapshot.number, phase) == self._said[0] and now - self._said[1] < self._repeat_s):
            return
        said = SnapshotRecord(
            endpoint=self.subject.endpoint,
            experiment=self.subject.experiment,
            term=self._term,
            number=snapshot.number,
            weights=snapshot.weights,
            phase=phase,
            models=snapshot.models,
            about={**self._experiment.about(self.fold.state), **self._counted},
            at_us=now_us(),
        )
        if await self._append_to(self._broker.channels.status, write_snapshot(said)):
            self._said, self._said_at = ((snapshot.number, phase), now), self.fold.offset
        await self._say_verdict()

    @property
    def _counted(self) -> dict[str, Any]:
        return {"counts": dict(self.fold.counts), "waiting": len(self.fold.waiting.joins)}

    @property
    def _repeat_s(self) -> float:
        """How long what was said last holds: while something is learnt people want to see it, models are large."""
        learns = self.fold.offset > self._said_at and self.fold.snapshot.models is None
        return min(ABOUT_S, self._settings.repeat_s) if learns else self._settings.repeat_s

    @property
    def _phase(self) -> str:
        if self.gap:
            return "stopped: records of the log are gone"
        held = "set by hand" if self.fold.set else "paused" if self.fold.paused else ""
        phase = self._experiment.phase(self.fold.state)
        return f"{phase} ({held})" if held else phase

    async def _repeat_verdict(self) -> None:
        """Order what this experiment has come to, if nothing is left that knows it: the log and the ledger are gone."""
        if self._verdict is None or self._experiment.is_over(self.fold.state) or self.fold.paused:
            return
        self._silent = len(self.fold.published) == 1
        if await self._append(*write_operator_command(sentence(self._verdict, self.subject))):
            self._verdict = None

    async def _say_verdict(self) -> None:
        """Write down how the experiment ended, where nothing is ever trimmed."""
        if not self._experiment.is_over(self.fold.state):
            return
        phase = self._experiment.phase(self.fold.state)
        snapshot = self._experiment.snapshot(self.fold.state, self.fold.snapshot.number)
        verdict = ExperimentResult(
            endpoint=self.subject.endpoint,
            experiment=self.subject.experiment,
            number=snapshot.number,
            phase=phase,
            weights=snapshot.weights,
            at_us=now_us(),
        )
        if self._known is not None and brings(self._known) == brings(verdict):
            return  # it says better how it came to that
        if await self._append_to(self._broker.channels.declared, write_experiment_result(verdict)):
            self._known = verdict

    async def _keep(self) -> None:
        """Append a checkpoint once a minute, if anything was learnt; large ones less often."""
        now = time.monotonic()
        if now - self._kept_s < CHECKPOINT_S or self.fold.offset <= self._kept_at + 1:
            return
        body, headers = write_checkpoint(self.fold.checkpoint())
        if await self._append(body, headers):
            self._kept_at = self.fold.offset
            self._kept_s = now + CHECKPOINT_S * (len(body) // CHECKPOINT_BYTES_A_MINUTE)

    async def _append(self, body: bytes, headers: dict[str, Any]) -> bool:
        return await self._append_to(self._log, body, headers)

    async def _append_to(self, log_name: str, body: bytes, headers: dict[str, Any] | None = None) -> bool:
        try:
            return (await self._broker.append(log_name, [body], headers))[0].safe
        except TryAgain:
            return False

    # -- time

    async def _keep_time(self) -> None:
        """Append a tick every second while time changes anything; the next one when the last has been read back."""
        while True:
            await asyncio.sleep(self._settings.tick_s)
            forgets_at_us = self.fold.forgets_at_us
            if self.fold.wants_ticks or (forgets_at_us is not None and forgets_at_us < now_us()):
                await self._tick()
            elif time.monotonic() - self._said[1] >= self._settings.repeat_s:
                await self._say()

    async def _tick(self) -> None:
        """Append the next tick. Of a time in which none could be appended there are none: nothing could join in it."""
        now = time.monotonic()
        number, sent_s = self._sent
        if self.fold.tick < number and now - sent_s < UNREAD_S:
            return
        tick = Tick(number=self.fold.tick + 1, at_us=now_us())
        if await self._append(*write_tick(tick)):
            self._sent = (tick.number, now)
