"""The fold of an endpoint's event log: rows and feedback become joins, joins become statistics, ticks are the time.

A function of the log alone: whoever folds the same records has the same bytes, wherever it stopped in between.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

import orjson

from broker.messages import Record
from broker.records.events import TYPE as ROWS
from broker.records.events import read_event
from broker.records.feedback import TYPE as FEEDBACK
from broker.records.feedback import read_feedback
from broker.records.merges import TYPE as MERGE
from broker.records.merges import read_merge
from broker.records.rewards import Reward
from broker.records.routing import (
    ORDER,
    TICK,
    LearnerCheckpoint,
    LogPosition,
    OperatorCommand,
    read_operator_command,
    read_tick,
)
from router.interleaving.placed import PlacedList
from router.learning.experiment import ClosedReward, CreditedDecision, Experiment, State
from router.learning.joins import NOBODY, Join, write_join
from router.learning.places import TickPositions, read_places
from router.learning.rows import Decision, decisions_in
from router.learning.waiting import OpenJoins
from router.policies.snapshot import WeightSnapshot, masked
from router.stats.packing import packed, unpacked

KEYS_LIMIT = 250_000
JUMP_LIMIT = 600  # ticks: a record that says more is no tick
AHEAD_US = 30_000_000  # of the newest request: a learner whose clock is further ahead would find all requests late
AGE_EVERY = 16  # ticks
INTERLEAVE = "interleave"
NEVER = ("invalid", "cancelled")  # the client's own doing


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSpec:
    """What is folded: an endpoint's arms in order, its rewards, and how long its rows may come twice."""

    endpoint: str
    experiment: str
    arms: tuple[str, ...]
    rewards: Mapping[str, Reward]
    dedupe_us: int


class ExperimentFold(Generic[State]):
    """Everything before `offset` is folded; `tick` and `at_us` are the log's clock, the snapshots what followed."""

    def __init__(self, subject: ExperimentSpec, experiment: Experiment[State]) -> None:
        self.subject = subject
        self.experiment = experiment
        self.state = experiment.start()
        rewards = {name: subject.rewards[name] for name in experiment.rewards}
        self.waiting = OpenJoins(rewards, by_item=experiment.policy == INTERLEAVE)
        self.keys: dict[str, set[bytes]] = {}
        self.new_keys: list[tuple[str, bytes]] = []
        self.published: list[tuple[WeightSnapshot, int]] = [(experiment.snapshot(self.state, 0), 0)]
        self.paused = False
        self.set: tuple[float, ...] = ()
        self.counts: Counter[str] = Counter()
        self.last: bytes | None = None  # what the newest record says
        self._stale = False  # something was learnt that no snapshot says yet
        self.is_ordered = False  # somebody has ordered what no snapshot says yet: the next tick does
        self._over = False
        declared = getattr(experiment, "declared", None)
        self._rankers = tuple(subject.arms[place] for place in declared.rankers) if declared is not None else ()
        self._names = {arm: place for place, arm in enumerate(subject.arms)}
        truth = self.waiting.truth
        self._scored, self._output = (truth.score or "", truth.output) if truth is not None else ("", "")
        self._kinds = {FEEDBACK: self._feedback, TICK: self._tick, ORDER: self._order}
        self._kinds |= {MERGE: self._merge} if experiment.policy == INTERLEAVE else {ROWS: self._rows}
        self.begin(LogPosition(offset=0, number=0, at_us=0))

    def begin(self, place: LogPosition) -> None:
        """Begin there: what was accepted before belongs to other experiments of the endpoint."""
        self.offset, self.tick, self.at_us = place.offset, place.number, place.at_us
        self._counts_from, self._began_us = place.offset, place.at_us
        self._newest_us = place.at_us - AHEAD_US
        self._places = self._places_from([(place, place.at_us)])

    def go_on(self, place: LogPosition) -> None:
        """Keep what is known, and go on there: what came in between is none of this experiment's."""
        waiting = self.waiting
        self.waiting = OpenJoins(waiting.rewards, by_item=self.experiment.policy == INTERLEAVE)
        self.begin(place)

    def apply(self, record: Record) -> None:
        """Fold a record; one that was folded already, or is none of ours, changes nothing."""
        if record.offset < self.offset:
            return
        self.offset, self.last = record.offset + 1, record.body
        fold = self._kinds.get(str(record.headers.get("cloudEvents_type")))
        if fold is not None:
            fold(record)

    @property
    def snapshot(self) -> WeightSnapshot:
        """The newest one."""
        return self.published[-1][0]

    @property
    def wants_ticks(self) -> bool:
        """Tell whether time changes anything."""
        waits = bool(self.waiting.joins) or self._stale
        return waits or (not self.paused and self.experiment.runs_by_itself(self.state))

    @property
    def forgets_at_us(self) -> int | None:
        """When a tick would let uids be forgotten that cannot come again; None if there are none.

        Those of the newest requests are kept until others come.
        """
        first = next(iter(self.waiting.seen.values()), None)
        if first is None or first + self.subject.dedupe_us >= self._newest_us + AHEAD_US:
            return None
        return first + self.subject.dedupe_us

    # -- what happened

    def _rows(self, record: Record) -> None:
        rows = read_event(record)
        if rows is None:
            return
        credited = []
        for number, decision in enumerate(decisions_in(rows, scored=self._scored, output=self._output)):
            if not self._is_new(decision.uid, decision.accepted_us):
                continue
            arm = self._credited_arm(decision)
            if arm is not None:
                credited.append(CreditedDecision(decision, arm, self._weights(decision)))
            if arm is None or not self.waiting.rewards:
                self.waiting.remember(decision.uid, decision.accepted_us)
            else:
                self._wait(decision, arm, record.offset << 20 | number)
        if credited and self._counting:
            self._count("decisions", len(credited))
            self.state = self.experiment.decided(self.state, credited, self._once)

    def _credited_arm(self, decision: Decision) -> int | None:
        """Return the place of the arm that a decision counts for; None for pinned requests, holdouts and others."""
        ours = decision.policy == self.experiment.policy and decision.accepted_us >= self._began_us
        counts = ours and decision.propensity > 0.0 and decision.status not in NEVER
        return self._names.get(decision.arm) if counts else None

    def _weights(self, decision: Decision) -> tuple[float, ...] | None:
        for snapshot, _ in reversed(self.published):
            if snapshot.number == decision.snapshot:
                return tuple(masked(snapshot.weights, decision.mask))
        return None

    def _wait(self, decision: Decision, arm: int, place: int) -> None:
        join = self.waiting.open(decision.uid, place, self.tick)
        join.arm, join.propensity, join.accepted_us = arm, decision.propensity, decision.accepted_us
        join.key, join.features, join.predicted = decision.key, decision.features, decision.predicted

    def _merge(self, record: Record) -> None:
        """A list that was made of several rankings is a decision of its own."""
        merge = read_merge(record)
        if merge is None or not self._is_new(merge.uid, merge.accepted_us):
            return
        is_ours = merge.policy == INTERLEAVE and merge.accepted_us >= self._began_us
        if not is_ours or merge.used != self._rankers:  # who is missing would lose for that
            self.waiting.remember(merge.uid, merge.accepted_us)
            return
        join = self.waiting.open(merge.uid, record.offset << 20, self.tick)
        join.arm, join.propensity, join.accepted_us, join.key = 0, 1.0, merge.accepted_us, merge.key
        join.shown = PlacedList(
            merge.method, tuple(merge.items), tuple(map(tuple, merge.ranks)), tuple(map(tuple, merge.credits))
        )
        self._count("decisions")

    def _feedback(self, record: Record) -> None:
        feedback = read_feedback(record)
        if feedback is not None and self.waiting.rewards:
            self._count(self.waiting.tell(feedback, self.tick).value)

    def _is_new(self, uid: bytes, accepted_us: int) -> bool:
        self._newest_us = max(self._newest_us, accepted_us)
        if self.waiting.knows(uid):
            self._count("duplicate")
            return False
        if accepted_us < self._oldest_us:
            self._count("late")
            return False
        return True

    # -- time

    def _tick(self, record: Record) -> None:
        tick = read_tick(record)
        if tick is None or not self.tick < tick.number <= self.tick + JUMP_LIMIT:
            return
        self.at_us = max(self.at_us, min(tick.at_us, self._newest_us + AHEAD_US))
        before, every = self.experiment.phase(self.state), self.experiment.refresh_ticks
        is_due = tick.number // every > self.tick // every
        for number in range(self.tick + 1, tick.number + 1):
            self.tick = number
            self._close()
            if self._counting and not self.paused:
                self.state = self.experiment.tick(self.state)
        if self._counting and self.experiment.is_over(self.state) and not self._over:
            self._over, self.paused, self.set = True, False, ()  # no hand holds what has shown harm
            before = ""
        if self._counting and (is_due or self.is_ordered or self.experiment.phase(self.state) != before):
            self._publish()
        self._age(record.offset + 1)

    def _close(self) -> None:
        """Credit the rewards whose horizon is over now, and let go of what is finished."""
        due = self.waiting.due(self.tick)
        try:
            for name, reward in self.waiting.rewards.items():
                horizon = self.waiting.horizons[name]
                joins = [join for _, join in due if join.arm != NOBODY and self.tick - join.tick == horizon]
                self._credit(name, reward, joins)
        finally:
            self._count("late", self.waiting.end(due, self.tick))

    def _credit(self, name: str, reward: Reward, joins: list[Join]) -> None:
        values = [(join, join.value(name, reward)) for join in joins]
        if self.experiment.policy == INTERLEAVE:
            values = [(join, 1.0) for join in joins]
        closed = [ClosedReward(join, value) for join, value in values if value is not None]
        if closed and self._counting:
            self._count("rewards", len(closed))
            self.state = self.experiment.rewarded(self.state, name, closed, self._once)
            self._stale = True

    def _publish(self) -> None:
        """Take a snapshot, if it says anything new."""
        self._stale = self.is_ordered = False
        if self.paused and not self.set:
            return
        snapshot = WeightSnapshot(self.tick, self.set) if self.set else self.experiment.snapshot(self.state, self.tick)
        if snapshot.weights != self.snapshot.weights or snapshot.models is not None:
            self.published.append((snapshot, self.at_us))

    def _age(self, offset: int) -> None:
        """Forget what can no longer come twice, and snapshots that no decision on its way was drawn from."""
        if self.tick % AGE_EVERY == 0 or not self.waiting.joins:
            self.waiting.age(self._oldest_us)
        while len(self.published) > 1 and self.published[1][1] < self._oldest_us:
            self.published.pop(0)
        self._places.add(LogPosition(offset=offset, number=self.tick, at_us=self.at_us), self._newest_us)

    @property
    def _oldest_us(self) -> int:
        return self.at_us - self.subject.dedupe_us

    # -- people

    def _order(self, record: Record) -> None:
        order = read_operator_command(record)
        if order is None or not self._counting or order.experiment != self.subject.experiment:
            return
        if order.word == "pause":
            self.paused = True
        elif order.word == "set":
            self._set(order)
        else:
            self.paused, self.set = False, ()
            self.state = self.experiment.ordered(self.state, order.word)
        self._stale = self.is_ordered = True

    def _set(self, order: OperatorCommand) -> None:
        weights = [max(0.0, float(order.weights.get(arm, 0.0))) for arm in self.subject.arms]
        if 0.0 < sum(weights) < 1e300:
            self.paused, self.set = True, tuple(weight / sum(weights) for weight in weights)

    # -- counting

    @property
    def _counting(self) -> bool:
        """Statistics are off while joins are rebuilt from before a checkpoint."""
        return self.offset > self._counts_from

    def _count(self, what: str, number: int = 1) -> None:
        if self._counting:
            self.counts[what] += number

    def _once(self, what: str, key: str) -> bool:
        if not key:
            return True
        known = self.keys.setdefault(what, set())
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        if digest in known or sum(map(len, self.keys.values())) >= KEYS_LIMIT:
            return False
        known.add(digest)
        self.new_keys.append((what, digest))
        return True

    # -- to keep

    def document(self) -> dict[str, Any]:
        """Return what is small: everything but joins, seen uids and keys."""
        return {
            "state": packed(self.state),
            "paused": self.paused,
            "set": list(self.set),
            "stale": self._stale,
            "ordered": self.is_ordered,
            "counts": dict(sorted(self.counts.items())),
            "began_us": self._began_us,
            "published": [[one.number, list(one.weights), at_us] for one, at_us in self.published],
            "models": self.snapshot.models,
            "over": self._over,
            "places": self._places.written(),
            "counts_from": self._counts_from,
            "newest_us": self._newest_us,
        }

    def restore(self, document: Mapping[str, Any], at: LogPosition) -> None:
        """Take up from a document that was written at a place; raises ValueError for one of another form."""
        try:
            self.state = unpacked(document["state"], self.experiment.start())
            self.begin(at)
            self._began_us, self._newest_us = document["began_us"], document["newest_us"]
            self._counts_from = max(at.offset, document["counts_from"])  # whoever wrote it may have been rebuilding
            self.paused, self.set, self._stale = document["paused"], tuple(document["set"]), document["stale"]
            self.is_ordered, self._over = document["ordered"], document["over"]
            self.counts = Counter(dict(document["counts"]))
            self.published = [
                (WeightSnapshot(number, tuple(weights)), at) for number, weights, at in document["published"]
            ]
            last, at_us = self.published[-1]
            self.published[-1] = (WeightSnapshot(last.number, last.weights, document["models"]), at_us)
            places = read_places(document["places"])
        except (KeyError, TypeError, IndexError, AttributeError) as exc:
            raise ValueError(f"this is no state of {self.experiment.policy}: {exc}") from exc
        self._places = self._places_from(places)

    def checkpoint(self) -> LearnerCheckpoint:
        """Return what a successor needs that has nothing but the log."""
        at = LogPosition(offset=self.offset, number=self.tick, at_us=self.at_us)
        keys = {what: sorted(digest.hex() for digest in digests) for what, digests in sorted(self.keys.items())}
        return LearnerCheckpoint(
            experiment=self.subject.experiment,
            at=at,
            rebuild=self._places.both_horizons_before(self.tick),
            number=self.snapshot.number,
            weights=self.snapshot.weights,
            state={**self.document(), "keys": keys},
        )

    def resume(self, checkpoint: LearnerCheckpoint) -> None:
        """Take up from a checkpoint: the next records are those from its `rebuild` on; raises ValueError."""
        self.restore(checkpoint.state, checkpoint.rebuild)
        self._places = self._places_from([(checkpoint.rebuild, checkpoint.rebuild.at_us)])
        self._newest_us = checkpoint.rebuild.at_us - AHEAD_US  # requests that were newer then are read again
        try:
            self.keys = {what: {bytes.fromhex(key) for key in keys} for what, keys in checkpoint.state["keys"].items()}
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError(f"these are no keys: {exc}") from exc
        self._counts_from = max(checkpoint.at.offset, self._counts_from)

    def canonical(self) -> bytes:
        """Return what is known as bytes: equal for equal knowledge, however it was come by."""
        waiting, oldest_us = self.waiting, self._oldest_us
        known = {
            "tick": self.tick,
            "at_us": self.at_us,
            "state": packed(self.state),
            "paused": self.paused,
            "set": list(self.set),
            "stale": self._stale,
            "ordered": self.is_ordered,
            "over": self._over,
            "began_us": self._began_us,
            "published": [[one.number, list(one.weights)] for one, _ in self.published],
            "models": self.snapshot.models,
            "joins": [[uid.hex(), *write_join(join)[1:]] for uid, join in sorted(waiting.joins.items())],
            "seen": sorted(uid.hex() for uid, accepted_us in waiting.seen.items() if accepted_us >= oldest_us),
            "keys": {what: sorted(key.hex() for key in keys) for what, keys in sorted(self.keys.items())},
        }
        return orjson.dumps(known, option=orjson.OPT_SORT_KEYS)

    def _places_from(self, places: Iterable[tuple[LogPosition, int]]) -> TickPositions:
        return TickPositions(places, patience=self.waiting.patience, dedupe_us=self.subject.dedupe_us)
