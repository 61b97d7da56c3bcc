"""Compares the outputs of a shadow with those of the serving arm, request by request, from the log."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from router.declaration.registry import has_shadow
from router.evidence.rows import RepeatFilter
from router.stats.arrays import Floats

WAITING_LIMIT = 100_000  # requests of which only one leg was read: their outputs are held in memory
REFUSED = ("overloaded", "expired")


@dataclass(slots=True)
class ShadowSide:
    """One leg of a request: its status, its durations in microseconds, and its output, row after row."""

    status: str
    compute_us: int
    total_us: int
    output: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class ShadowComparison:
    """Sums and columns over the compared pairs, and the statuses of all shadows."""

    pairs: int = 0
    comparable: int = 0
    equal: int = 0
    argmax_rows: int = 0
    argmax_equal: int = 0
    difference: array[float] = field(default_factory=lambda: array("d"))  # mean absolute, a pair
    most: float = 0.0
    rank_distance: array[float] = field(default_factory=lambda: array("d"))
    compute_us: array[int] = field(default_factory=lambda: array("q"))  # the shadow's less the other's
    total_us: array[int] = field(default_factory=lambda: array("q"))
    statuses: Counter[str] = field(default_factory=Counter)  # of shadows


class ShadowPairs:
    """Pairs the two legs of a request as they are read; `output` names the compared output (empty: the only one)."""

    def __init__(self, output: str) -> None:
        self.compared = ShadowComparison()
        self.served_alone = 0  # requests that were not mirrored, or whose shadow's row is missing
        self._output = output
        self._waiting: dict[bytes, dict[int, ShadowSide]] = {}
        self._repeats = RepeatFilter()
        self._forgotten = 0

    @property
    def incomplete(self) -> int:
        """The number of shadows whose request is not in the log."""
        return self._forgotten + sum(0 not in sides for sides in self._waiting.values())

    @property
    def alone(self) -> int:
        """The number of requests without a shadow in the log: not in the sample, or missing."""
        return self.served_alone + sum(0 in sides for sides in self._waiting.values())

    def add(self, rows: Any) -> None:
        """Add an event's rows (an Arrow record batch)."""
        outputs = self._outputs(rows)
        names = ("uid", "leg", "row", "policy", "status", "accepted_us", "started_us", "computed_us", "published_us")
        columns = [rows.column(name).to_pylist() for name in names]
        sides: dict[tuple[bytes, int], ShadowSide] = {}
        for place, (uid, leg, row, policy, status, accepted, started, computed, published) in enumerate(
            zip(*columns, strict=True)
        ):
            if leg > 1 or not has_shadow(policy):
                continue
            side = sides.get((uid, leg))
            if side is None and row == 0 and not self._repeats((uid, leg)):
                side = sides[uid, leg] = ShadowSide(status or "", computed - started, published - accepted)
            if side is not None and outputs is not None and status == "ok":
                side.output.append(outputs[place])
        for (uid, leg), side in sides.items():
            self._meet(uid, leg, side)

    def _meet(self, uid: bytes, leg: int, side: ShadowSide) -> None:
        if leg:
            self.compared.statuses[side.status] += 1
        known = self._waiting.pop(uid, {})
        known[leg] = side
        if len(known) == 2:
            compare(known[0], known[1], self.compared)
            return
        self._waiting[uid] = known
        if len(self._waiting) > WAITING_LIMIT:
            oldest = self._waiting.pop(next(iter(self._waiting)))
            self.served_alone += 0 in oldest
            self._forgotten += 0 not in oldest

    def _outputs(self, rows: Any) -> list[Any] | None:
        names = [name for name in rows.schema.names if name.startswith("output.")]
        name = f"output.{self._output}" if self._output else names[0] if len(names) == 1 else ""
        return rows.column(name).to_pylist() if name in names else None


def compare(served: ShadowSide, shadow: ShadowSide, into: ShadowComparison) -> None:
    """Count one pair."""
    into.pairs += 1
    if served.status != "ok" or shadow.status != "ok":
        return
    into.compute_us.append(shadow.compute_us - served.compute_us)
    into.total_us.append(shadow.total_us - served.total_us)
    if not served.output or len(served.output) != len(shadow.output):
        return
    into.comparable += 1
    into.equal += served.output == shadow.output
    for one, other in zip(served.output, shadow.output, strict=True):
        _compare_rows(one, other, into)


def _compare_rows(one: Any, other: Any, into: ShadowComparison) -> None:
    if isinstance(one, list) and one and isinstance(one[0], (str, bytes)):
        if isinstance(other, list):
            into.rank_distance.append(footrule_of_lists(one, other))
        return
    try:
        a, b = np.atleast_1d(np.asarray(one, np.float64)), np.atleast_1d(np.asarray(other, np.float64))
    except (TypeError, ValueError):  # texts have no distance
        return
    if a.shape != b.shape or not len(a) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return
    apart = np.abs(a - b)
    into.difference.append(float(apart.mean()))
    into.most = max(into.most, float(apart.max()))
    if len(a) > 1:
        into.argmax_rows += 1
        into.argmax_equal += int(a.argmax()) == int(b.argmax())
        into.rank_distance.append(footrule_of_scores(a, b))


def footrule_of_scores(one: Floats, other: Floats) -> float:
    """Return Spearman's footrule between the orders of two vectors of scores, from 0 (equal) to 1 (the maximum).

    It is the sum of the items' moves, divided by floor(n**2 / 2) (Diaconis and Graham 1977).
    """
    ranks = [np.argsort(np.argsort(-scores, kind="stable"), kind="stable") for scores in (one, other)]
    return float(np.abs(ranks[0] - ranks[1]).sum()) / (len(one) ** 2 // 2)


def footrule_of_lists(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Return the footrule between two lists of items, best first, from 0 to 1 (no common item).

    An item that is missing in a list has the rank after the end of the longer one (Fagin, Kumar and Sivakumar 2003,
    "Comparing top k lists").
    """
    end = max(len(one), len(other))
    ranks = [{item: rank for rank, item in reversed(list(enumerate(items)))} for items in (one, other)]
    items = {*ranks[0], *ranks[1]}
    moved = sum(abs(ranks[0].get(item, end) - ranks[1].get(item, end)) for item in items)
    most = sum(len(known) * end - len(known) * (len(known) - 1) // 2 for known in ranks)
    return float(moved / max(1, most))
