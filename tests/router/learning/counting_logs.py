"""Helpers of `test_counting.py` that other tests use, too."""

from __future__ import annotations

from collections.abc import Sequence

from broker.messages import Record
from broker.records.merges import Merge, write_merge
from tests.router.learning.traces import TracedRequest, feedback


def shown_list(one: TracedRequest) -> Record:
    """Return the record of a list of two items, of which `a` placed the first and `b` the second."""
    merge = Merge(
        uid=one.uid,
        key=one.key,
        policy="interleave",
        snapshot=0,
        mask=7,
        method="team_draft",
        rankers=("a", "b"),
        used=("a", "b"),
        items=("i", "j"),
        ranks=((1, 2), (2, 1)),
        credits=((1.0, 0.0), (0.0, 1.0)),
        accepted_us=one.accepted_us,
        at_us=one.accepted_us,
    )
    body, headers = write_merge(merge)
    return Record(0, body, headers)


def clicks(shown: Sequence[TracedRequest], item: str = "i") -> list[Record]:
    return [feedback(one, one.accepted_us, item=item) for one in shown]
