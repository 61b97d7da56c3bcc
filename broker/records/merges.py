"""`millrace.merge.v1`: the positions in which several rankers placed the items of a list. JSON on the event log."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.messages import Record
from broker.protocol.ids import uid_of, uid_text

TYPE = "millrace.merge.v1"
VERSION = 1
HEADERS = {"cloudEvents_type": TYPE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One list as its client received it.

    `rankers` are the arms that were asked, in the order of the endpoint's arms; `used` are those whose rankings are in
    the list. `ranks` and `credits` have one row per item and one column per ranker: the item's rank in that ranking
    (from 1; 0 if it is absent), and the ranker's credit for a click on it. An unused ranker has 0 everywhere; if only
    one was used, all credits are 0.
    """

    uid: bytes
    key: str
    policy: str
    snapshot: int
    mask: int
    method: str
    rankers: tuple[str, ...]
    used: tuple[str, ...]
    items: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    credits: tuple[tuple[float, ...], ...]
    accepted_us: int
    at_us: int


def write_merge(merge: Merge) -> tuple[bytes, dict[str, Any]]:
    """Return the body and the headers of a log record."""
    return orjson.dumps({"v": VERSION, **asdict(merge), "uid": uid_text(merge.uid)}), dict(HEADERS)


def read_merge(record: Record) -> Merge | None:
    """Read a record of the event log; None if it is of another type or version, or malformed."""
    if record.headers.get("cloudEvents_type") != TYPE:
        return None
    try:
        body = _Body.model_validate_json(record.body)
        fields = {name: getattr(body, name) for name in _FIELDS}
        merge = Merge(**{**fields, "uid": uid_of(body.uid)})
    except (ValidationError, ValueError):
        return None
    return merge if _fits_together(merge) else None


Number = Annotated[int, Field(ge=0, lt=2**64)]
Time = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    v: Literal[1]
    uid: str
    key: str
    policy: str
    snapshot: Number
    mask: Number
    method: str
    rankers: tuple[str, ...]
    used: tuple[str, ...]
    items: tuple[str, ...]
    ranks: tuple[tuple[Number, ...], ...]
    credits: tuple[tuple[Share, ...], ...]
    accepted_us: Time
    at_us: Time


_FIELDS = tuple(Merge.__dataclass_fields__)


def _fits_together(merge: Merge) -> bool:
    """Return True if all names are unique, and every item has one rank and one credit per ranker."""
    once = all(len(set(names)) == len(names) for names in (merge.rankers, merge.used, merge.items))
    wide = all(len(row) == len(merge.rankers) for row in (*merge.ranks, *merge.credits))
    long = len(merge.ranks) == len(merge.credits) == len(merge.items)
    return once and wide and long and bool(merge.used) and set(merge.used) <= set(merge.rankers)
