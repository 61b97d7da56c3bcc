"""A decision that waits for its feedback, or feedback that waits for its decision, and how several values become one.

Whatever order they come in, and however often each, the same values become the same one.
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

NOBODY = -1
EVENTS_LIMIT = 1000  # event ids that a sum remembers for one request
ITEMS_LIMIT = 1000

Entry = list[Any]  # [microseconds, value], or for sums [units, event ids]


class FeedbackOutcome(Enum):
    """What became of a piece of feedback."""

    JOINED = "joined"
    EARLY = "early"  # before its decision: it waits
    DUPLICATE = "duplicate"
    LATE = "late"
    UNUSABLE = "unusable"


@dataclass(slots=True)
class Join:
    """What is known of one request. `arm` is NOBODY while its decision has not been seen.

    `place` orders decisions as the log does. `values` by reward, `truth` a label, `items` those that were clicked.
    """

    place: int
    tick: int
    arm: int = NOBODY
    propensity: float = 0.0
    accepted_us: int = 0
    key: str = ""
    features: list[float] | None = None
    predicted: list[Any] | None = None
    shown: PlacedList | None = None
    values: dict[str, Entry] | None = None
    truth: Entry | None = None
    items: dict[str, Entry] | None = None

    def take(self, name: str, how: str, at_us: int, value: float, event: str | None) -> FeedbackOutcome:
        """Take in a value of a reward."""
        if self.values is None:
            self.values = {}
        return _taken(self.values, name, how, at_us, value, event)

    def take_truth(self, how: str, at_us: int, label: Any) -> FeedbackOutcome:
        """Take in a true label. Ties in time go to the one that is written with the greater bytes."""
        if self.truth is not None:
            known_us, known = self.truth
            wins = at_us < known_us if how == "first" else at_us > known_us
            if not wins and not (at_us == known_us and orjson.dumps(label) > orjson.dumps(known)):
                return FeedbackOutcome.DUPLICATE
        self.truth = [at_us, label]
        return FeedbackOutcome.JOINED

    def take_item(self, item: str, how: str, at_us: int, value: float, event: str | None) -> FeedbackOutcome:
        """Take in a value for one item of a list."""
        if self.items is None:
            self.items = {}
        if item not in self.items and len(self.items) >= ITEMS_LIMIT:
            return FeedbackOutcome.UNUSABLE
        return _taken(self.items, item, how, at_us, value, event)

    def value(self, name: str, reward: Reward) -> float | None:
        """Return what the reward is when its horizon is over; None: there is none, and nothing is credited."""
        if reward.source == "truth":
            scored = None if self.truth is None else score(reward.score or "", self.predicted, self.truth[1])
        else:
            entry = None if self.values is None else self.values.get(name)
            scored = None if entry is None else entry[0] / ONE if reward.duplicates == "sum" else entry[1]
        if scored is not None:
            return float(scored)
        return None if reward.default == "skip" else float(reward.default)

    def clicked(self) -> list[str]:
        """Return the items of the list whose value is above 0: those that were clicked."""
        known = self.items or {}
        return sorted(item for item, (first, last) in known.items() if (first if isinstance(last, list) else last) > 0)


def _taken(
    entries: dict[str, Entry], name: str, how: str, at_us: int, value: float, event: str | None
) -> FeedbackOutcome:
    if how == "sum":
        return _added(entries, name, value, event)
    entry, changed = reduced(entries.get(name), how, at_us, value)
    entries[name] = entry
    return FeedbackOutcome.JOINED if changed else FeedbackOutcome.DUPLICATE


def _added(entries: dict[str, Entry], name: str, value: float, event: str | None) -> FeedbackOutcome:
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
    """Return the entry after one more value, and whether its value is another one.

    Ties in time go to the higher value, ties in value to the earlier time.
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
    """Return what a true label says of a prediction, the mean over the request's rows; None if they do not fit.

    `argmax` and `equal`: the share of rows that are right; for argmax `predicted` are already the places of the
    largest numbers. `error`: minus the mean absolute error; one that no real reward may be is none.
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
    """Tell whether a value is one that the reward's type allows."""
    if reward.type == "bool":
        return value in (0.0, 1.0)
    return abs(value) <= REAL_LIMIT if reward.type == "real" else 0.0 <= value <= 1.0


def usable_label(reward: Reward, label: Any) -> bool:
    """Tell whether a true label can be scored into a value that the reward's type allows, whatever was predicted."""
    labels = label if isinstance(label, list) else [label]
    return reward.score != "error" or all(abs(one) <= REAL_LIMIT for one in labels if isinstance(one, (int, float)))


def write_join(join: Join) -> list[Any]:
    """Return what JSON can hold."""
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
    """Return the join that `data` was written from."""
    join = Join(*data)
    if data[8]:
        method, items, ranks, credits_ = data[8]
        join.shown = PlacedList(method, tuple(items), tuple(map(tuple, ranks)), tuple(map(tuple, credits_)))
    return join


def _sorted(entries: Mapping[str, Entry] | None) -> dict[str, Entry] | None:
    return None if not entries else {name: entries[name] for name in sorted(entries)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
