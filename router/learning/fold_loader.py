"""The state that a learner starts with: from the ledger, else from the newest checkpoint, else an empty one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from broker.base import Broker
from broker.errors import Gap, Unreachable
from broker.protocol.ids import now_us
from broker.records.routing import LearnerCheckpoint, LogPosition
from router.learning.checkpoint_search import CheckpointSearch
from router.learning.experiment import Experiment, ExperimentSpec
from router.learning.fold import ExperimentFold
from router.learning.fold_document import resume
from router.learning.ledger import Ledger, SavedState, digest, restore_saved

logger = logging.getLogger(__name__)

LOOK_BACK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFold:
    """A fold to continue. `is_saved`: the ledger holds this state.

    `begun_at`: the fold begins at this offset of the log, and a checkpoint has to say so; None for a fold that was
    restored from the ledger or from a checkpoint of the experiment that was learnt last.
    """

    fold: ExperimentFold[Any]
    is_saved: bool = False
    begun_at: int | None = None


class FoldLoader:
    """Loads the fold of one experiment."""

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        log: str,
        spec: ExperimentSpec,
        experiment: Experiment[Any],
        *,
        look_back_s: float = LOOK_BACK_S,
    ) -> None:
        """`look_back_s` is how long the broker may take to return one record."""
        self._broker = broker
        self._ledger = ledger
        self._log = log
        self._spec = spec
        self._experiment = experiment
        self._look_back_s = look_back_s

    def empty(self) -> ExperimentFold[Any]:
        """Return a fold at the beginning of the log."""
        return ExperimentFold(self._spec, self._experiment)

    async def load(self) -> LoadedFold:
        """Return the fold to continue; raises TryAgain if the broker cannot be reached."""
        saved = await self._saved()
        if saved is not None and await self._belongs_to_log(saved):
            fold = self._restored(saved)
            if fold is not None:
                return LoadedFold(fold=fold, is_saved=True)
        return await self._from_log()

    async def after_gap(self, gap: Gap) -> ExperimentFold[Any] | None:
        """Return the fold of a checkpoint whose records lie after a gap in the log; None if there is no such one."""
        found = await CheckpointSearch(self._broker, self._log, self._spec.experiment).run()
        checkpoint = found.checkpoint
        if checkpoint is None or checkpoint.rebuild.offset < gap.end:
            return None
        return self._resumed(checkpoint)

    async def _saved(self) -> SavedState | None:
        try:
            return await self._ledger.load(self._spec.endpoint, self._spec.experiment)
        except Exception as exc:  # noqa: BLE001 - a damaged ledger must not stop the learner: it copies the log
            self._warn_unreadable(exc)
            return None

    def _restored(self, saved: SavedState) -> ExperimentFold[Any] | None:
        fold = self.empty()
        try:
            restore_saved(fold, saved)
        except Exception as exc:  # noqa: BLE001 - as above
            self._warn_unreadable(exc)
            return None
        return fold

    def _warn_unreadable(self, exc: Exception) -> None:
        name, kind = self._spec.endpoint, type(exc).__name__
        logger.warning("endpoint %s: the ledger cannot be read (%s: %s); using the event log", name, kind, exc)

    async def _belongs_to_log(self, saved: SavedState) -> bool:
        """Return True if the last record of the saved state is in this log.

        A ledger of another broker, or of a log that was deleted and made again, does not belong to it.
        """
        offset = saved.at.offset
        if offset > await self._broker.end(self._log):
            return False
        if not saved.last or not offset:
            return True
        reader = self._broker.read(self._log, offset - 1)
        try:
            async with asyncio.timeout(self._look_back_s):
                record = (await reader.read(1))[0]
        except Gap:  # the record has been trimmed: the next records follow it, or the reader reports the gap
            return True
        except TimeoutError as exc:
            raise Unreachable(f"{self._log}: record {offset - 1} did not come within {self._look_back_s:g} s") from exc
        finally:
            await reader.close()
        if record.offset == offset - 1 and digest(record.body) != saved.last:
            logger.warning(
                "endpoint %s: the ledger belongs to another event log; learning starts again from this log",
                self._spec.endpoint,
            )
            return False
        return True

    async def _from_log(self) -> LoadedFold:
        found = await CheckpointSearch(self._broker, self._log, self._spec.experiment).run()
        fold = None if found.checkpoint is None else self._resumed(found.checkpoint)
        if fold is not None and found.newest == self._spec.experiment:
            return LoadedFold(fold=fold)
        end = LogPosition(offset=found.end, number=found.tick, at_us=now_us())
        begin = end if found.is_used else LogPosition(offset=found.first, number=0, at_us=0)
        if fold is not None:
            fold.restart(end)  # the records since its checkpoint belong to the experiment declared meanwhile
        else:
            fold = self.empty()
            fold.begin(begin)
        return LoadedFold(fold=fold, begun_at=begin.offset)

    def _resumed(self, checkpoint: LearnerCheckpoint) -> ExperimentFold[Any] | None:
        """Return the fold of a checkpoint; None if its state has another form."""
        fold = self.empty()
        try:
            resume(fold, checkpoint)
        except ValueError as exc:
            logger.warning("endpoint %s: its checkpoint cannot be read: %s", self._spec.endpoint, exc)
            return None
        return fold
