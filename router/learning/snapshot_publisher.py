"""Publishes an experiment's snapshots on `status`, and its result on `declared`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from broker.base import Broker
from broker.protocol.ids import now_us
from broker.records.routing import (
    ExperimentResult,
    SnapshotRecord,
    write_experiment_result,
    write_operator_command,
    write_snapshot,
)
from router.learning.fold import ExperimentFold
from router.learning.log_append import appended
from router.learning.result_command import command_to_restore, restored_weights
from router.learning.settings import LearnerSettings


class SnapshotPublisher:
    """Publishes for one endpoint under one leadership term.

    `known` is the experiment's result from before, if it has ended. Nothing is published before the fold has read the
    log up to `speaks_from`: the last leader has published newer snapshots than an older state gives.
    """

    def __init__(
        self, broker: Broker, settings: LearnerSettings, log: str, term: int, known: ExperimentResult | None
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._log = log
        self._term = term
        self._known = known
        self._to_restore = known  # until its command is appended, if the state needs it
        self._lock = asyncio.Lock()
        self._newest: tuple[int, str] = (-1, "")  # the number and the phase of the newest snapshot on `status`
        self.published_s = 0.0  # when it was published, by the monotonic clock
        self._published_offset = -1  # of the fold at that time
        self.speaks_from = 0
        # Until the first new snapshot: routers that know the result know more than an empty fold.
        self._is_silent = False

    def reset(self) -> None:
        """Speak at once: the log was deleted and the fold is at the beginning of a new one."""
        self.speaks_from, self._published_offset = 0, -1

    async def publish(self, fold: ExperimentFold[Any], *, is_stopped: bool) -> None:
        """Publish the newest snapshot if it or the phase is new, or if the last publication is old enough.

        `is_stopped`: records of the log are lost, and the weights do not change any more.
        """
        async with self._lock:  # the reading task and the clock task both publish
            await self._publish(fold, is_stopped=is_stopped)

    async def _publish(self, fold: ExperimentFold[Any], *, is_stopped: bool) -> None:
        now_s, newest = time.monotonic(), (fold.snapshot.number, _phase(fold, is_stopped=is_stopped))
        has_caught_up = fold.progress.offset >= self.speaks_from
        if has_caught_up:
            await self._restore_result(fold)
        self._is_silent = self._is_silent and len(fold.published.entries) == 1
        # A snapshot follows every operator command: until then its phase would not match the weights.
        if (not has_caught_up or fold.hold.is_pending) and not is_stopped:
            return
        if self._is_silent or (newest == self._newest and now_s - self.published_s < self._pause_s(fold)):
            return
        record = self._record(fold, newest[1])
        if await appended(self._broker, self._broker.channels.status, write_snapshot(record)):
            self._newest, self.published_s, self._published_offset = newest, now_s, fold.progress.offset
        await self._publish_result(fold)

    def _record(self, fold: ExperimentFold[Any], phase: str) -> SnapshotRecord:
        counts = {"counts": dict(fold.progress.counts), "waiting": len(fold.joins.by_uid)}
        return SnapshotRecord(
            endpoint=fold.spec.endpoint,
            experiment=fold.spec.experiment,
            term=self._term,
            number=fold.snapshot.number,
            weights=fold.snapshot.weights,
            phase=phase,
            models=fold.snapshot.models,
            about={**fold.experiment.about(fold.state), **counts},
            at_us=now_us(),
        )

    def _pause_s(self, fold: ExperimentFold[Any]) -> float:
        """Return the pause before the same snapshot is repeated: short while figures change, unless it is large."""
        has_news = fold.progress.offset > self._published_offset and fold.snapshot.models is None
        return min(self._settings.learning_s, self._settings.repeat_s) if has_news else self._settings.repeat_s

    async def _restore_result(self, fold: ExperimentFold[Any]) -> None:
        """Append the command that brings back a known result, if the ledger and the log have lost it."""
        result = self._to_restore
        if result is None or fold.experiment.is_over(fold.state) or fold.hold.is_paused:
            return
        self._is_silent = len(fold.published.entries) == 1
        body, headers = write_operator_command(command_to_restore(result, fold.spec))
        if await appended(self._broker, self._log, body, headers):
            self._to_restore = None

    async def _publish_result(self, fold: ExperimentFold[Any]) -> None:
        """Append the result of an experiment that has ended to `declared`, which is never trimmed."""
        if not fold.experiment.is_over(fold.state):
            return
        result = ExperimentResult(
            endpoint=fold.spec.endpoint,
            experiment=fold.spec.experiment,
            number=fold.snapshot.number,
            phase=fold.experiment.phase(fold.state),
            weights=fold.experiment.snapshot(fold.state, fold.snapshot.number).weights,
            at_us=now_us(),
        )
        if self._known is not None and restored_weights(self._known) == restored_weights(result):
            return  # the known result names the original phase
        if await appended(self._broker, self._broker.channels.declared, write_experiment_result(result)):
            self._known = result


def _phase(fold: ExperimentFold[Any], *, is_stopped: bool) -> str:
    if is_stopped:
        return "stopped: records of the log are gone"
    held = "set by hand" if fold.hold.weights else "paused" if fold.hold.is_paused else ""
    phase = fold.experiment.phase(fold.state)
    return f"{phase} ({held})" if held else phase
