"""The fold of an endpoint's event log: rows and feedback become joins, joins become statistics, ticks are the time.

The state is a function of the log alone: folding the same records gives the same bytes, wherever the fold was stopped
and resumed in between.
"""

from __future__ import annotations

from typing import Generic

from broker.messages import Record
from broker.records.feedback import TYPE as FEEDBACK
from broker.records.feedback import read_feedback
from broker.records.rewards import Reward
from broker.records.routing import ORDER, TICK, LogPosition, read_operator_command, read_tick
from router.learning.counted_keys import CountedKeys
from router.learning.decision_readers import DecisionReader, FoldParts, MergedListReader, RowReader
from router.learning.experiment import ClosedReward, Experiment, ExperimentSpec, State
from router.learning.joins import NO_ARM, Join
from router.learning.log_progress import AHEAD_US, LogProgress
from router.learning.open_joins import WAITING_LIMIT, OpenJoins
from router.learning.operator_hold import OperatorHold
from router.learning.published_snapshots import PublishedSnapshots
from router.policies.snapshot import WeightSnapshot

JUMP_LIMIT = 600  # ticks: a record that skips more than that is not a tick of this log
AGE_EVERY = 16  # ticks


class ExperimentFold(Generic[State]):
    """One experiment over one endpoint's event log: `state` follows from the records so far."""

    def __init__(
        self, spec: ExperimentSpec, experiment: Experiment[State], *, waiting_limit: int = WAITING_LIMIT
    ) -> None:
        self.spec = spec
        self.experiment = experiment
        self.state = experiment.start()
        rewards = {name: spec.rewards[name] for name in experiment.rewards}
        self.joins = OpenJoins(rewards, by_item=bool(experiment.rankers), waiting_limit=waiting_limit)
        self.keys = CountedKeys()
        self.published = PublishedSnapshots(experiment.snapshot(self.state, 0))
        self.hold = OperatorHold()
        self.progress = LogProgress(patience=self.joins.patience, dedupe_us=spec.dedupe_us)
        self.is_stale = False  # rewards were learnt from that no snapshot reflects yet
        self.is_over = False
        self._decisions = self._decision_reader()
        self._folds = {
            self._decisions.record_type: self._fold_decisions,
            FEEDBACK: self._fold_feedback,
            TICK: self._fold_tick,
            ORDER: self._fold_command,
        }

    def begin(self, position: LogPosition) -> None:
        """Start at a position; decisions that were accepted before it belong to other experiments of the endpoint."""
        self.progress.begin(position)

    def restart(self, position: LogPosition) -> None:
        """Keep the statistics, drop all open joins, and continue at a position of the same or another log."""
        self.joins.clear()
        self.begin(position)

    def apply(self, record: Record) -> None:
        """Fold a record; one that was folded before, or is of no known type, changes nothing."""
        if record.offset < self.progress.offset:
            return
        self.progress.advance(record)
        fold = self._folds.get(str(record.headers.get("cloudEvents_type")))
        if fold is not None:
            fold(record)

    @property
    def snapshot(self) -> WeightSnapshot:
        """The newest snapshot."""
        return self.published.newest

    @property
    def needs_ticks(self) -> bool:
        """Whether the next tick changes anything."""
        waits = bool(self.joins.by_uid) or self.is_stale
        return waits or (not self.hold.is_paused and self.experiment.runs_by_itself(self.state))

    @property
    def forgets_at_us(self) -> int | None:
        """When a tick would let uids be forgotten that cannot come again; None if there are none.

        The uids of the newest requests are kept until newer requests come.
        """
        first_us = next(iter(self.joins.seen.values()), None)
        dedupe_us = self.spec.dedupe_us
        if first_us is None or first_us + dedupe_us >= self.progress.newest_us + AHEAD_US:
            return None
        return first_us + dedupe_us

    def _decision_reader(self) -> DecisionReader:
        reader = MergedListReader if self.experiment.rankers else RowReader
        parts = FoldParts(
            spec=self.spec,
            experiment=self.experiment,
            joins=self.joins,
            progress=self.progress,
            published=self.published,
        )
        return reader(parts)

    # -- decisions, feedback and operator commands

    def _fold_decisions(self, record: Record) -> None:
        credited = self._decisions.read(record)
        if credited and self.progress.is_counting:
            self.state = self.experiment.decided(self.state, credited, self.keys.is_first)

    def _fold_feedback(self, record: Record) -> None:
        feedback = read_feedback(record)
        if feedback is not None and self.joins.rewards:
            self.progress.count(self.joins.add_feedback(feedback, self.progress.tick).value)

    def _fold_command(self, record: Record) -> None:
        command = read_operator_command(record)
        if command is None or not self.progress.is_counting or command.experiment != self.spec.experiment:
            return
        if command.word == "pause":
            self.hold.pause()
        elif command.word == "set":
            self.hold.set(command.weights, self.spec.arms)
        else:
            self.hold.release()
            self.state = self.experiment.ordered(self.state, command.word)
        self.is_stale = self.hold.is_pending = True

    # -- time

    def _fold_tick(self, record: Record) -> None:
        tick, progress = read_tick(record), self.progress
        if tick is None or not progress.tick < tick.number <= progress.tick + JUMP_LIMIT:
            return
        progress.set_clock(tick.at_us)
        before, every = self.experiment.phase(self.state), self.experiment.refresh_ticks
        is_due = tick.number // every > progress.tick // every
        for number in range(progress.tick + 1, tick.number + 1):
            progress.tick = number
            self._close_joins()
            if progress.is_counting and not self.hold.is_paused:
                self.state = self.experiment.tick(self.state)
        if progress.is_counting:
            has_ended = self._end_hold()
            is_due = is_due or has_ended or self.hold.is_pending
            if is_due or self.experiment.phase(self.state) != before:
                self._publish()
        self._forget(record.offset + 1)

    def _end_hold(self) -> bool:
        """Release the operator's hold when the experiment ends: a hold must not keep an arm that has shown harm."""
        if self.is_over or not self.experiment.is_over(self.state):
            return False
        self.is_over = True
        self.hold.release()
        return True

    def _close_joins(self) -> None:
        """Credit the rewards whose horizon ends at this tick, and drop the joins that are complete."""
        tick = self.progress.tick
        due = self.joins.due(tick)
        try:
            for name, reward in self.joins.rewards.items():
                horizon = self.joins.horizons[name]
                self._credit(
                    name, reward, [join for _, join in due if join.arm != NO_ARM and tick - join.tick == horizon]
                )
        finally:
            self.progress.count("late", self.joins.end(due, tick))

    def _credit(self, name: str, reward: Reward, joins: list[Join]) -> None:
        values = [(join, join.value(name, reward)) for join in joins]
        closed = [ClosedReward(join, value) for join, value in values if value is not None]
        if closed and self.progress.is_counting:
            self.progress.count("rewards", len(closed))
            self.state = self.experiment.rewarded(self.state, name, closed, self.keys.is_first)
            self.is_stale = True

    def _publish(self) -> None:
        """Publish a snapshot, unless the weights are frozen or have not changed."""
        self.is_stale = self.hold.is_pending = False
        if self.hold.is_frozen:
            return
        tick, by_hand = self.progress.tick, self.hold.weights
        snapshot = WeightSnapshot(tick, by_hand) if by_hand else self.experiment.snapshot(self.state, tick)
        self.published.publish(snapshot, self.progress.at_us)

    def _forget(self, offset: int) -> None:
        """Forget uids that can no longer come twice, and snapshots that no open decision was drawn from."""
        oldest_us = self.progress.oldest_us
        if self.progress.tick % AGE_EVERY == 0 or not self.joins.by_uid:
            self.joins.forget_before(oldest_us)
        self.published.forget_before(oldest_us)
        self.progress.note_tick(offset)
