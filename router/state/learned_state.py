"""The learner's records: claims, snapshots and experiment results."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from broker.records.endpoint import Endpoint
from broker.records.routing import ExperimentResult, LeadershipClaim, SnapshotRecord, experiment_of

logger = logging.getLogger(__name__)

BEHIND_LIMIT = 3


class LearnedState:
    """The newest snapshot and result of each endpoint: a fold of the records that learners append.

    Only snapshots of the newest claim count: an older leader may not know yet that it was replaced.
    """

    def __init__(self, declared: Mapping[str, Endpoint]) -> None:
        """`declared` are the endpoints that are declared now: records of their other experiments are ignored."""
        self._declared = declared
        self.term = -1  # of the newest claim
        self._snapshots: dict[str, SnapshotRecord] = {}
        self._early: dict[str, SnapshotRecord] = {}  # of a term whose claim has not been read yet
        self._behind: dict[str, int] = {}  # by endpoint: consecutive snapshots that seem older
        self._results: dict[str, ExperimentResult] = {}

    def fold_claim(self, claim: LeadershipClaim) -> list[str]:
        """Fold a claim, which invalidates the last leader; return the endpoints that have a new snapshot."""
        self.term = claim.term
        early, self._early = self._early, {}
        return [record.endpoint for record in early.values() if self.fold_snapshot(record)]

    def fold_snapshot(self, record: SnapshotRecord) -> bool:
        """Fold a snapshot; return False if it does not count, or not yet."""
        if record.term > self.term:
            self._early[record.endpoint] = record
            return False
        if record.term < self.term or self._is_behind(record):
            return False
        self._snapshots[record.endpoint] = record
        return True

    def fold_result(self, result: ExperimentResult) -> None:
        """Fold an experiment's result."""
        self._results[result.endpoint] = result

    def snapshot_of(self, endpoint: str) -> SnapshotRecord | None:
        """Return the newest snapshot of an endpoint's current experiment."""
        record, declaration = self._snapshots.get(endpoint), self._declared.get(endpoint)
        return record if record and declaration and record.experiment == experiment_of(declaration) else None

    def result_of(self, endpoint: str) -> ExperimentResult | None:
        """Return the result of an endpoint's current experiment; None while it runs."""
        result, declaration = self._results.get(endpoint), self._declared.get(endpoint)
        return result if result and declaration and result.experiment == experiment_of(declaration) else None

    def _is_behind(self, record: SnapshotRecord) -> bool:
        """Return True if a snapshot is older than the one in force.

        A single old snapshot came late, because its publication was tried again. If several in succession seem older,
        the one in force has a number that its learner never reached, and is dropped.
        """
        endpoint, before = record.endpoint, self._snapshots.get(record.endpoint)
        same = before is not None and (before.experiment, before.term) == (record.experiment, record.term)
        if before is None or not same or record.number >= before.number:
            self._behind.pop(endpoint, None)
            return False
        self._behind[endpoint] = self._behind.get(endpoint, 0) + 1
        if self._behind[endpoint] < BEHIND_LIMIT:
            return True
        logger.error(
            "endpoint %s: snapshot %d is ahead of its learner, which is at %d: another client wrote it; it is dropped",
            endpoint,
            before.number,
            record.number,
        )
        del self._behind[endpoint]
        return False
