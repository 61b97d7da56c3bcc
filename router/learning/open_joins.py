"""What waits: decisions for their feedback, feedback for its decision, and uids that may come twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.records.feedback import Feedback
from broker.records.rewards import Reward
from router.learning.joins import NOBODY, FeedbackOutcome, Join, read_join, usable, usable_label

WAITING_LIMIT = 100_000  # requests of which only feedback is known: anybody can make some up
LABEL_BYTES = 4096


@dataclass(slots=True)
class ChangedUids:
    """The uids whose join, or whose place among the seen ones, a ledger has to write."""

    joins: set[bytes] = field(default_factory=set)
    seen: set[bytes] = field(default_factory=set)


class OpenJoins:
    """Joins by uid, due by tick; `by_item`: feedback is for items of a list, not for the whole answer.

    A decision waits for the longest horizon of its rewards, and feedback without a decision as long.
    """

    def __init__(self, rewards: Mapping[str, Reward], *, by_item: bool = False) -> None:
        self.rewards = rewards
        self.horizons = {name: max(1, round(reward.horizon)) for name, reward in rewards.items()}
        self.patience = max(self.horizons.values(), default=1)
        self.truth = next((reward for reward in rewards.values() if reward.source == "truth"), None)
        self.joins: dict[bytes, Join] = {}
        self.seen: dict[bytes, int] = {}  # uid -> accepted_us
        self.changed = ChangedUids()
        self._by_item = by_item
        self._due: dict[int, list[tuple[bytes, int]]] = {}
        self._early = 0

    def knows(self, uid: bytes) -> bool:
        """Tell whether a decision with this uid was seen."""
        join = self.joins.get(uid)
        return uid in self.seen or (join is not None and join.arm != NOBODY)

    def open(self, uid: bytes, place: int, tick: int) -> Join:
        """Return the join of a new decision, with what feedback to it has come before; its horizons begin now."""
        join = self.joins.get(uid)
        if join is None:
            join = self.joins[uid] = Join(place, tick)
        else:
            self._early -= 1
            join.place, join.tick = place, tick
        for ticks in {*self.horizons.values()}:
            self._put_due(tick + ticks, uid, join)
        self.changed.joins.add(uid)
        return join

    def remember(self, uid: bytes, accepted_us: int) -> None:
        """Know a decision that waits for nothing; feedback that came before it is of no use."""
        if uid in self.joins:
            self._forget(uid)
        self.seen[uid] = accepted_us
        self.changed.seen.add(uid)

    def tell(self, feedback: Feedback, tick: int) -> FeedbackOutcome:
        """Take in feedback."""
        uid = feedback.uid
        join = self.joins.get(uid)
        if join is None and uid in self.seen:
            return FeedbackOutcome.LATE
        if join is None and self._early >= WAITING_LIMIT:
            return FeedbackOutcome.UNUSABLE
        known = join or Join(0, tick)
        told = self._take(known, feedback)
        if told is FeedbackOutcome.UNUSABLE:
            return told
        if join is None:
            self.joins[uid] = known
            self._early += 1
            self._put_due(tick + self.patience, uid, known)
        self.changed.joins.add(uid)
        return FeedbackOutcome.EARLY if known.arm == NOBODY and told is FeedbackOutcome.JOINED else told

    def due(self, tick: int) -> list[tuple[bytes, Join]]:
        """Return the joins of which some horizon is over now, in the order of their decisions."""
        due = ((uid, self.joins.get(uid), then) for uid, then in self._due.pop(tick, ()))
        found = {uid: join for uid, join, then in due if join is not None and join.tick == then}
        return sorted(found.items(), key=lambda item: (item[1].place, item[0]))

    def end(self, over: Iterable[tuple[bytes, Join]], tick: int) -> int:
        """Let go of the joins whose last horizon is over; returns of how many the decision never came."""
        lonely = 0
        for uid, join in over:
            if tick - join.tick < self.patience:
                continue
            lonely += join.arm == NOBODY
            if join.arm != NOBODY:
                self.seen[uid] = join.accepted_us
                self.changed.seen.add(uid)
            self._forget(uid)
        return lonely

    def age(self, oldest_us: int) -> None:
        """Forget uids that were accepted before: their rows would be late, and not count."""
        gone = [uid for uid, accepted_us in self.seen.items() if accepted_us < oldest_us]
        for uid in gone:
            del self.seen[uid]
        self.changed.seen.update(gone)

    def restore(self, joins: Mapping[bytes, Any], seen: Mapping[bytes, int], tick: int) -> None:
        """Take up what was written."""
        self.joins = {uid: read_join(data) for uid, data in joins.items()}
        self.seen = dict(seen)
        self._early = sum(join.arm == NOBODY for join in self.joins.values())
        self._due = {}
        for uid, join in self.joins.items():
            horizons = {self.patience} if join.arm == NOBODY else {*self.horizons.values()}
            for ticks in horizons:
                if join.tick + ticks > tick:
                    self._put_due(join.tick + ticks, uid, join)

    def _put_due(self, tick: int, uid: bytes, join: Join) -> None:
        self._due.setdefault(tick, []).append((uid, join.tick))

    def _forget(self, uid: bytes) -> None:
        self._early -= self.joins.pop(uid).arm == NOBODY
        self.changed.joins.add(uid)

    def _take(self, join: Join, feedback: Feedback) -> FeedbackOutcome:
        if feedback.truth is not None:
            reward, label = self.truth, feedback.truth
            if reward is None or not usable_label(reward, label) or len(orjson.dumps(label)) > LABEL_BYTES:
                return FeedbackOutcome.UNUSABLE
            return join.take_truth(reward.duplicates, feedback.at_us, label)
        told = set()
        for name, value in feedback.values.items():
            reward = self.rewards.get(name)
            if reward is None or reward.source == "truth" or not usable(reward, value):
                continue
            how, at_us, event = reward.duplicates, feedback.at_us, feedback.event_id
            if not self._by_item:
                told.add(join.take(name, how, at_us, value, event))
            elif feedback.item is not None:
                told.add(join.take_item(feedback.item, how, at_us, value, event))
        return next(
            (one for one in (FeedbackOutcome.JOINED, FeedbackOutcome.DUPLICATE) if one in told),
            FeedbackOutcome.UNUSABLE,
        )
