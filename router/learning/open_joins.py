"""Decisions that wait for feedback, feedback that waits for its decision, and uids whose rows may come twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.records.feedback import Feedback
from broker.records.rewards import Reward
from router.learning.joins import NO_ARM, FeedbackOutcome, Join, read_join, usable, usable_label

WAITING_LIMIT = 100_000  # joins without a decision: feedback may name any uid, so their number has to be limited
LABEL_BYTES = 4096


@dataclass(slots=True)
class ChangedUids:
    """The uids whose join, or whose entry among the seen uids, the ledger has to write."""

    joins: set[bytes] = field(default_factory=set)
    seen: set[bytes] = field(default_factory=set)


class OpenJoins:
    """Joins by uid. With `by_item` feedback is for one item of a list, not for the whole answer.

    A decision waits for the longest horizon of its rewards (`patience`, in ticks), and so does feedback without a
    decision. Feedback that would be beyond `waiting_limit` joins without a decision is not used.
    """

    def __init__(
        self, rewards: Mapping[str, Reward], *, by_item: bool = False, waiting_limit: int = WAITING_LIMIT
    ) -> None:
        self.rewards = rewards
        self.horizons = {name: max(1, round(reward.horizon)) for name, reward in rewards.items()}
        self.patience = max(self.horizons.values(), default=1)
        self.truth = next((reward for reward in rewards.values() if reward.source == "truth"), None)
        self._by_item = by_item
        self._waiting_limit = waiting_limit
        self.clear()

    def clear(self) -> None:
        """Drop all joins and all seen uids."""
        self.by_uid: dict[bytes, Join] = {}
        self.seen: dict[bytes, int] = {}  # uid -> accepted_us
        self.changed = ChangedUids()
        self._due: dict[int, list[tuple[bytes, int]]] = {}
        self._early = 0  # joins that hold feedback without a decision

    def take_changed(self) -> ChangedUids:
        """Return the uids that have changed since the last call."""
        changed, self.changed = self.changed, ChangedUids()
        return changed

    def knows(self, uid: bytes) -> bool:
        """Return True if a decision with this uid was seen."""
        join = self.by_uid.get(uid)
        return uid in self.seen or (join is not None and join.arm != NO_ARM)

    def open(self, uid: bytes, place: int, tick: int) -> Join:
        """Return the join of a new decision, with any feedback that came before it; its horizons begin at `tick`."""
        join = self.by_uid.get(uid)
        if join is None:
            join = self.by_uid[uid] = Join(place, tick)
        else:
            self._early -= 1
            join.place, join.tick = place, tick
        for ticks in {*self.horizons.values()}:
            self._put_due(tick + ticks, uid, join)
        self.changed.joins.add(uid)
        return join

    def remember(self, uid: bytes, accepted_us: int) -> None:
        """Remember the uid of a decision that waits for no feedback; drop feedback that came before it."""
        if uid in self.by_uid:
            self._forget(uid)
        self.seen[uid] = accepted_us
        self.changed.seen.add(uid)

    def add_feedback(self, feedback: Feedback, tick: int) -> FeedbackOutcome:
        """Add feedback to its join, or open a join that waits for the decision."""
        uid = feedback.uid
        join = self.by_uid.get(uid)
        if join is None and uid in self.seen:
            return FeedbackOutcome.LATE
        if join is None and self._early >= self._waiting_limit:
            return FeedbackOutcome.UNUSABLE
        known = join or Join(0, tick)
        outcome = self._add_values(known, feedback)
        if outcome is FeedbackOutcome.UNUSABLE:
            return outcome
        if join is None:
            self.by_uid[uid] = known
            self._early += 1
            self._put_due(tick + self.patience, uid, known)
        self.changed.joins.add(uid)
        return FeedbackOutcome.EARLY if known.arm == NO_ARM and outcome is FeedbackOutcome.JOINED else outcome

    def due(self, tick: int) -> list[tuple[bytes, Join]]:
        """Return the joins of which a horizon ends at `tick`, in the order of their decisions in the log."""
        due = ((uid, self.by_uid.get(uid), then) for uid, then in self._due.pop(tick, ()))
        found = {uid: join for uid, join, then in due if join is not None and join.tick == then}
        return sorted(found.items(), key=lambda item: (item[1].place, item[0]))

    def end(self, over: Iterable[tuple[bytes, Join]], tick: int) -> int:
        """Close the joins whose last horizon is over; return the number of those whose decision never came."""
        without_decision = 0
        for uid, join in over:
            if tick - join.tick < self.patience:
                continue
            without_decision += join.arm == NO_ARM
            if join.arm != NO_ARM:
                self.seen[uid] = join.accepted_us
                self.changed.seen.add(uid)
            self._forget(uid)
        return without_decision

    def forget_before(self, oldest_us: int) -> None:
        """Forget the uids of requests accepted before `oldest_us`: their rows would be late and not count."""
        gone = [uid for uid, accepted_us in self.seen.items() if accepted_us < oldest_us]
        for uid in gone:
            del self.seen[uid]
        self.changed.seen.update(gone)

    def restore(self, joins: Mapping[bytes, Any], seen: Mapping[bytes, int], tick: int) -> None:
        """Replace the content by a saved one; horizons that ended at or before `tick` are not due again."""
        self.by_uid = {uid: read_join(data) for uid, data in joins.items()}
        self.seen = dict(seen)
        self._early = sum(join.arm == NO_ARM for join in self.by_uid.values())
        self._due = {}
        for uid, join in self.by_uid.items():
            horizons = {self.patience} if join.arm == NO_ARM else {*self.horizons.values()}
            for ticks in horizons:
                if join.tick + ticks > tick:
                    self._put_due(join.tick + ticks, uid, join)

    def _put_due(self, tick: int, uid: bytes, join: Join) -> None:
        self._due.setdefault(tick, []).append((uid, join.tick))

    def _forget(self, uid: bytes) -> None:
        self._early -= self.by_uid.pop(uid).arm == NO_ARM
        self.changed.joins.add(uid)

    def _add_values(self, join: Join, feedback: Feedback) -> FeedbackOutcome:
        if feedback.truth is not None:
            reward, label = self.truth, feedback.truth
            if reward is None or not usable_label(reward, label) or len(orjson.dumps(label)) > LABEL_BYTES:
                return FeedbackOutcome.UNUSABLE
            return join.add_truth(reward.duplicates, feedback.at_us, label)
        outcomes = set()
        for name, value in feedback.values.items():
            reward = self.rewards.get(name)
            if reward is None or reward.source == "truth" or not usable(reward, value):
                continue
            how, at_us, event = reward.duplicates, feedback.at_us, feedback.event_id
            if not self._by_item:
                outcomes.add(join.add(name, how, at_us, value, event))
            elif feedback.item is not None:
                outcomes.add(join.add_item(feedback.item, how, at_us, value, event))
        return next(
            (one for one in (FeedbackOutcome.JOINED, FeedbackOutcome.DUPLICATE) if one in outcomes),
            FeedbackOutcome.UNUSABLE,
        )
