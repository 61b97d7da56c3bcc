"""Joins of a decision and its feedback, and how several values for one reward are reduced to one.

The result does not depend on the order of the values, nor on how often each one comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from broker.records.rewards import REAL_LIMIT, Reward
from router.interleaving.placed import PlacedList
from router.stats.arrays import ONE

NO_ARM = -1
EVENTS_LIMIT = 1000  # event ids that a sum remembers for one request
ITEMS_LIMIT = 1000

Entry = list[Any]  # [microseconds, value], or for sums [units, event ids]


class FeedbackOutcome(Enum):
    """The outcome of one piece of feedback."""

    JOINED = "joined"
    EARLY = "early"  # came before its decision, and waits for it
    DUPLICATE = "duplicate"
    LATE = "late"
    UNUSABLE = "unusable"


@dataclass(slots=True)
class Join:
    """One request's decision and feedback. `arm` is NO_ARM until the decision has been read.

    `place` orders decisions as in the log. `values` are by reward, `truth` is a label, `items` are values by item.
    """

    place: int
    tick: int
    arm: int = NO_ARM
    propensity: float = 0.0
    accepted_us: int = 0
    key: str = ""
    features: list[float] | None = None
    predicted: list[Any] | None = None
    shown: PlacedList | None = None
    values: dict[str, Entry] | None = None
    truth: Entry | None = None
    items: dict[str, Entry] | None = None

    def add(self, name: str, how: str, at_us: int, value: float, event: str | None) -> FeedbackOutcome:
        """Add a value of a reward; `how` is the reward's rule for duplicates."""
        if self.values is None:
            self.values = {}
        return _added_value(self.values, name, how, at_us, value, event)

    def add_truth(self, how: str, at_us: int, label: Any) -> FeedbackOutcome:
        """Add a true label. Of labels with the same time, the one whose JSON has the greater bytes counts."""
        if self.truth is not None:
            known_us, known = self.truth
            wins = at_us < known_us if how == "first" else at_us > known_us
            if not wins and not (at_us == known_us and orjson.dumps(label) > orjson.dumps(known)):
                return FeedbackOutcome.DUPLICATE
        self.truth = [at_us, label]
        return FeedbackOutcome.JOINED

    def add_item(self, item: str, how: str, at_us: int, value: float, event: str | None) -> FeedbackOutcome:
        """Add a value for one item of a list."""
        if self.items is None:
            self.items = {}
        if item not in self.items and len(self.items) >= ITEMS_LIMIT:
            return FeedbackOutcome.UNUSABLE
        return _added_value(self.items, item, how, at_us, value, event)

    def value(self, name: str, reward: Reward) -> float | None:
        """Return the reward at the end of its horizon; None if there is none and nothing is to be credited.

        A merged list has the value 1: its experiment credits the clicked items.
        """
        if self.shown is not None:
            return 1.0
        if reward.source == "truth":
            scored = None if self.truth is None else score(reward.score or "", self.predicted, self.truth[1])
        else:
            entry = None if self.values is None else self.values.get(name)
            scored = None if entry is None else entry[0] / ONE if reward.duplicates == "sum" else entry[1]
        if scored is not None:
            return float(scored)
        return None if reward.default == "skip" else float(reward.default)

    def clicked(self) -> list[str]:
        """Return the items whose value is above 0, sorted: those that were clicked."""
        known = self.items or {}
        return sorted(item for item, (first, last) in known.items() if (first if isinstance(last, list) else last) > 0)


def _added_value(
    entries: dict[str, Entry], name: str, how: str, at_us: int, value: float, event: str | None
) -> FeedbackOutcome:
    if how == "sum":
        return _added_to_sum(entries, name, value, event)
    entry, changed = reduced(entries.get(name), how, at_us, value)
    entries[name] = entry
    return FeedbackOutcome.JOINED if changed else FeedbackOutcome.DUPLICATE


def _added_to_sum(entries: dict[str, Entry], name: str, value: float, event: str | None) -> FeedbackOutcome:
    if event is None:
        return FeedbackOutcome.UNUSABLE
    total, events = entries.get(name, (0, []))
    if event in events:
        return FeedbackOutcome.DUPLICATE
    total += round(value * ONE)
    if len(events) >= EVENTS_LIMIT or abs(total) > REAL_LIMIT * ONE:
        return FeedbackOutcome.UNUSABLE
    entries[name] = [total, sorted([*events, event])]
    return FeedbackOutcome.JOINED


def reduced(entry: Entry | None, how: str, at_us: int, value: float) -> tuple[Entry, bool]:
    """Return the entry after one more value, and whether the entry's value has changed.

    Of values with the same time the higher one counts, of equal values the earlier one.
    """
    if entry is None:
        return [at_us, value], True
    if how == "max":
        if value == entry[1]:
            return [min(at_us, entry[0]), value], False
        wins = value > entry[1]
    elif how == "last":
        wins = (at_us, value) > (entry[0], entry[1])
    else:
        wins = at_us < entry[0] or (at_us == entry[0] and value > entry[1])
    return ([at_us, value], True) if wins else (entry, False)


def score(how: str, predicted: Sequence[Any] | None, truth: Any) -> float | None:
    """Return the score of a prediction against its true label, the mean over the request's rows.

    `argmax` and `equal` give the share of rows that are right; for `argmax` the values in `predicted` are already the
    positions of the largest numbers. `error` gives minus the mean absolute error. Returns None if label and prediction
    do not fit each other, or if the error is beyond the limit of a real reward.
    """
    labels = truth if isinstance(truth, list) else [truth]
    if not predicted or len(labels) != len(predicted):
        return None
    if how == "error":
        if not all(_is_number(value) for value in (*labels, *predicted)):
            return None
        error = float(sum(abs(value - label) for value, label in zip(predicted, labels, strict=True))) / len(labels)
        return -error if error <= REAL_LIMIT else None
    return float(sum(value == label for value, label in zip(predicted, labels, strict=True))) / len(labels)


def usable(reward: Reward, value: float) -> bool:
    """Return True if the reward's type allows a value."""
    if reward.type == "bool":
        return value in (0.0, 1.0)
    return abs(value) <= REAL_LIMIT if reward.type == "real" else 0.0 <= value <= 1.0


def usable_label(reward: Reward, label: Any) -> bool:
    """Return True if the score of a true label is within the reward's type for every prediction."""
    labels = label if isinstance(label, list) else [label]
    return reward.score != "error" or all(abs(one) <= REAL_LIMIT for one in labels if isinstance(one, (int, float)))


def write_join(join: Join) -> list[Any]:
    """Return a join as JSON."""
    shown = join.shown and [join.shown.method, join.shown.items, join.shown.ranks, join.shown.credits]
    return [
        join.place,
        join.tick,
        join.arm,
        join.propensity,
        join.accepted_us,
        join.key,
        join.features,
        join.predicted,
        shown,
        _sorted(join.values),
        join.truth,
        _sorted(join.items),
    ]


def read_join(data: list[Any]) -> Join:
    """Return the join that was written as `data`."""
    join = Join(*data)
    if data[8]:
        method, items, ranks, credits_ = data[8]
        join.shown = PlacedList(method, tuple(items), tuple(map(tuple, ranks)), tuple(map(tuple, credits_)))
    return join


def _sorted(entries: Mapping[str, Entry] | None) -> dict[str, Entry] | None:
    return None if not entries else {name: entries[name] for name in sorted(entries)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
