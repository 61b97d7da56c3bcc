"""Decisions as the event log records them: prediction rows, or merged lists for policies that combine rankers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from broker.messages import Record
from broker.records.events import TYPE as ROWS
from broker.records.events import read_event
from broker.records.merges import TYPE as MERGE
from broker.records.merges import read_merge
from router.interleaving.placed import PlacedList
from router.learning.experiment import CreditedDecision, Experiment, ExperimentSpec
from router.learning.log_progress import LogProgress
from router.learning.open_joins import OpenJoins
from router.learning.published_snapshots import PublishedSnapshots
from router.learning.rows import Decision, decisions_in

NEVER = ("invalid", "cancelled")  # the client's own doing


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldParts:
    """The parts of a fold that reading decisions needs."""

    spec: ExperimentSpec
    experiment: Experiment[Any]
    joins: OpenJoins
    progress: LogProgress
    published: PublishedSnapshots


class DecisionReader(ABC):
    """Opens a join for each new decision in a record."""

    record_type: ClassVar[str]  # the CloudEvents type of the records that it reads

    def __init__(self, parts: FoldParts) -> None:
        self._experiment = parts.experiment
        self._joins = parts.joins
        self._progress = parts.progress

    @abstractmethod
    def read(self, record: Record) -> Sequence[CreditedDecision]:
        """Open the joins of a record's decisions and return the decisions that the experiment sees before rewards."""

    def _is_new(self, uid: bytes, accepted_us: int) -> bool:
        """Return False, and count it, for a decision that came before, or that is too old to tell."""
        progress = self._progress
        progress.newest_us = max(progress.newest_us, accepted_us)
        if self._joins.knows(uid):
            progress.count("duplicate")
            return False
        if accepted_us < progress.oldest_us:
            progress.count("late")
            return False
        return True


class RowReader(DecisionReader):
    """Reads prediction rows: a request is a decision for the arm that answered it."""

    record_type = ROWS

    def __init__(self, parts: FoldParts) -> None:
        super().__init__(parts)
        self._published = parts.published
        self._arms = {arm: place for place, arm in enumerate(parts.spec.arms)}
        truth = parts.joins.truth
        self._scored, self._output = (truth.score or "", truth.output) if truth is not None else ("", "")

    def read(self, record: Record) -> Sequence[CreditedDecision]:
        rows = read_event(record)
        if rows is None:
            return ()
        credited = []
        for number, decision in enumerate(decisions_in(rows, scored=self._scored, output=self._output)):
            if not self._is_new(decision.uid, decision.accepted_us):
                continue
            arm = self._credited_arm(decision)
            if arm is not None:
                weights = self._published.probabilities(decision.snapshot, decision.mask)
                credited.append(CreditedDecision(decision, arm, weights))
            if arm is None or not self._joins.rewards:
                self._joins.remember(decision.uid, decision.accepted_us)
            else:
                self._open(decision, arm, record.offset << 20 | number)
        if credited:
            self._progress.count("decisions", len(credited))
        return credited

    def _credited_arm(self, decision: Decision) -> int | None:
        """Return the place of the arm that a decision counts for; None for pinned, held-out and foreign requests."""
        ours = decision.policy == self._experiment.policy and decision.accepted_us >= self._progress.began_us
        counts = ours and decision.propensity > 0.0 and decision.status not in NEVER
        return self._arms.get(decision.arm) if counts else None

    def _open(self, decision: Decision, arm: int, place: int) -> None:
        join = self._joins.open(decision.uid, place, self._progress.tick)
        join.arm, join.propensity, join.accepted_us = arm, decision.propensity, decision.accepted_us
        join.key, join.features, join.predicted = decision.key, decision.features, decision.predicted


class MergedListReader(DecisionReader):
    """Reads merge records: a list that was merged from all rankers is one decision."""

    record_type = MERGE

    def __init__(self, parts: FoldParts) -> None:
        super().__init__(parts)
        self._rankers = tuple(parts.spec.arms[place] for place in parts.experiment.rankers)

    def read(self, record: Record) -> Sequence[CreditedDecision]:
        merge = read_merge(record)
        if merge is None or not self._is_new(merge.uid, merge.accepted_us):
            return ()
        is_ours = merge.policy == self._experiment.policy and merge.accepted_us >= self._progress.began_us
        if not is_ours or merge.used != self._rankers:  # a ranker that is missing in the list would lose
            self._joins.remember(merge.uid, merge.accepted_us)
            return ()
        join = self._joins.open(merge.uid, record.offset << 20, self._progress.tick)
        join.arm, join.propensity, join.accepted_us, join.key = 0, 1.0, merge.accepted_us, merge.key
        join.shown = PlacedList(
            merge.method, tuple(merge.items), tuple(map(tuple, merge.ranks)), tuple(map(tuple, merge.credits))
        )
        self._progress.count("decisions")
        return ()
