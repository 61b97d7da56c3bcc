"""One pass over an endpoint's event log: the learner's own fold, and more figures from the rows, for a report."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from broker.messages import Record
from broker.records.endpoint import Endpoint
from broker.records.events import TYPE as ROWS
from broker.records.events import read_event
from broker.records.feedback import TYPE as FEEDBACK
from broker.records.feedback import read_feedback
from broker.records.routing import LearnerCheckpoint
from router.evidence.clock import LogClock
from router.evidence.decisions import Columns, Decisions
from router.evidence.observed import FixedExperiment, ObservedExperiment, rewards_seen
from router.evidence.probabilities import Probabilities
from router.evidence.rows import ArmRows
from router.evidence.shadows import ShadowPairs
from router.learning.declared import read_experiment
from router.learning.experiment import ClosedReward, CreditedDecision, Experiment, spec_of
from router.learning.fold import ExperimentFold
from router.learning.fold_document import resume
from router.learning.rows import Decision
from router.policies.declared import read_policy
from router.policies.policy import Policy

logger = logging.getLogger(__name__)

_SPACING = 1024  # places between two records of a log, for the ticks that a clock puts there

Weigh = Callable[[Decision, int], Sequence[float] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The content of a log for an endpoint as it is declared now.

    `published` are times (microseconds) with the weights from then on; `counts` are records and decisions by outcome.
    """

    endpoint: Endpoint
    decisions: Decisions
    published: Sequence[tuple[int, tuple[float, ...]]]
    rows: ArmRows
    shadows: ShadowPairs | None
    counts: Counter[str]
    experiment: Experiment[Any]
    state: Any
    phase: str
    until_us: int


class Recorder:
    """Folds records one by one; `until_us` is the time of reading."""

    def __init__(
        self, endpoint: Endpoint, until_us: int, *, candidate: Endpoint | None = None, is_led: bool = True
    ) -> None:
        """A `candidate` is another declaration of the same arms, whose weights are computed for the logged decisions.

        `is_led`: a learner has appended ticks to the log, and published snapshots.
        """
        self._endpoint, self._until_us = endpoint, until_us
        self._is_candidate = candidate is not None
        logged, judged = read_policy(endpoint), candidate or endpoint
        policy = read_policy(judged)
        learnt = read_experiment(judged) if is_led or candidate is not None else None
        rankers = () if policy.merging is None else policy.merging.rankers
        inner = learnt or FixedExperiment(policy=policy.name, weights=policy.first().weights, rankers=rankers)
        self._experiment = ObservedExperiment(
            inner=inner, observer=self, policy=logged.name, rewards=rewards_seen(judged, inner)
        )
        self._fold: ExperimentFold[Any] = ExperimentFold(spec_of(judged), self._experiment)
        self._known = Probabilities(policy)
        self._weigh: Weigh = self._known.drawn if candidate is None else self._before
        self._newest = (-1, 0)  # the number and the time of the newest snapshot
        self._clock = None if is_led else LogClock(self._fold.joins.patience, until_us)
        self._columns = Columns(len(endpoint.arms), self._experiment.rewards)
        self._rows = ArmRows()
        self._shadows = _shadows_of(logged)
        self._counts: Counter[str] = Counter()
        self._note_snapshots()

    def resume(self, checkpoint: LearnerCheckpoint) -> None:
        """Begin at the first checkpoint of the experiment: the next records are those from `checkpoint.rebuild` on."""
        if self._is_candidate or checkpoint.at == checkpoint.rebuild:
            self._fold.begin(checkpoint.rebuild)
            return
        resume(self._fold, checkpoint)
        self._note_snapshots()

    def apply(self, record: Record) -> None:
        """Fold a record; one that cannot be read is counted, and changes nothing."""
        self._counts["records"] += 1
        at_us = self._count(record)
        if self._clock is not None:
            for tick in self._clock.passed(at_us, record.offset * _SPACING):
                self._fold.apply(tick)
            record = replace(record, offset=record.offset * _SPACING + _SPACING - 1)
        try:
            self._fold.apply(record)
        except Exception as exc:  # noqa: BLE001 - a record that breaks the fold must not hide all others
            logger.debug("record %d could not be folded: %s", record.offset, exc)
            self._counts["unreadable"] += 1
        self._note_snapshots()

    def finish(self) -> Evidence:
        """Return the evidence; without a learner's ticks all horizons that are over by now are closed."""
        if self._clock is not None:
            for tick in self._clock.passed(self._until_us, self._fold.progress.offset):
                self._fold.apply(tick)
        counts = self._counts + self._fold.progress.counts
        counts["waiting"] = len(self._fold.joins.by_uid)
        return Evidence(
            endpoint=self._endpoint,
            decisions=self._columns.decisions(),
            published=self._known.published,
            rows=self._rows,
            shadows=self._shadows,
            counts=counts,
            experiment=self._experiment.inner,
            state=self._fold.state,
            phase=self._experiment.phase(self._fold.state),
            until_us=self._until_us,
        )

    # -- as an observer

    def decided(self, credited: Sequence[CreditedDecision]) -> None:
        joins = self._fold.joins.by_uid
        for one in credited:
            join = joins.get(one.decision.uid)
            weights = self._weigh(one.decision, one.arm)
            self._columns.add(-1 if join is None else join.place, one, weights)

    def rewarded(self, name: str, closed: Sequence[ClosedReward]) -> None:
        for one in closed:
            self._columns.close(name, one)

    # -- beside the fold

    def _count(self, record: Record) -> int:
        """Count a record by its kind; return the time in it (microseconds), 0 if there is none."""
        kind = record.headers.get("cloudEvents_type")
        if kind == ROWS:
            return self._count_rows(record)
        if kind != FEEDBACK:
            return 0
        try:
            feedback = read_feedback(record)
        except (KeyError, TypeError, ValueError, AttributeError):
            feedback = None
        if feedback is None or type(feedback.at_us) is not int:
            self._counts["unreadable"] += 1
            return 0
        return feedback.at_us

    def _count_rows(self, record: Record) -> int:
        rows = read_event(record)
        if rows is None:
            self._counts["unreadable"] += 1
            return 0
        try:
            self._rows.add(rows)
            if self._shadows is not None:
                self._shadows.add(rows)
            return int(np.median(rows.column("published_us").to_numpy(zero_copy_only=False)))
        except (KeyError, TypeError, ValueError) as exc:  # unknown columns: the fold counts the record
            logger.debug("record %d has rows of another form: %s", record.offset, exc)
            return 0

    def _before(self, decision: Decision, _: int) -> Sequence[float] | None:
        return self._known.before(decision)

    def _note_snapshots(self) -> None:
        """Add the snapshot that the fold has published, at most one a record."""
        snapshot, at_us = self._fold.published.entries[-1]
        if (snapshot.number, at_us) != self._newest:
            self._newest = (snapshot.number, at_us)
            self._known.note(snapshot, at_us)


def _shadows_of(policy: Policy) -> ShadowPairs | None:
    return None if policy.compared_output is None else ShadowPairs(policy.compared_output)
