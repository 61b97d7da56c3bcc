"""What the learner and people say about routing: claims and verdicts on `declared`, snapshots on `status`, and on an
endpoint's event log the ticks of its clock, checkpoints, and orders.

JSON records, each with its version; one that cannot be read is None: it is skipped, never a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import orjson

from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint

VERSION = 1
TICK = "millrace.tick.v1"
CHECKPOINT = "millrace.checkpoint.v1"
ORDER = "millrace.order.v1"

Word = Literal["pause", "resume", "promote", "abort", "set"]
WORDS = ("pause", "resume", "promote", "abort", "set")

_T = TypeVar("_T")
_NUMBERS = ("term", "number", "at_us")
_NAMES = ("endpoint", "experiment", "instance", "phase", "word", "author")


def experiment_of(declaration: Endpoint) -> str:
    """Return a short hash of what a declaration says about its experiment: with another one, learning starts anew.

    The order of the arms is part of it: weights and statistics are theirs by place.
    """
    said = declaration.model_dump(mode="json", exclude={"deadline", "retry", "results", "log"})
    said["arms"] = list(said["arms"].items())
    return hashlib.blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipClaim:
    """Somebody leads from now on: `term` is the record's offset on `declared`, and the newest one counts."""

    term: int
    instance: str
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    """A snapshot: the probabilities of the arms, in the order of the declaration, from a learner that claimed `term`.

    `number` is the tick at which it was taken. `models` are the coefficients of a policy that looks at features.
    """

    endpoint: str
    experiment: str
    term: int
    number: int
    weights: tuple[float, ...]
    phase: str = ""
    models: Any = None
    about: Mapping[str, Any] = field(default_factory=dict)  # for people: what the weights follow from
    at_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResult:
    """How an experiment ended: it stays so, even if all that the learner kept is lost."""

    endpoint: str
    experiment: str
    number: int
    phase: str
    weights: tuple[float, ...]
    at_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A second of an event log's clock. The first record with a higher number counts, whoever wrote it."""

    number: int
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """Where in a log, and when: the record at `offset` is the first behind tick `number`, which was at `at_us`."""

    offset: int
    number: int
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerCheckpoint:
    """What is known of an experiment at `at`; who has nothing else reads from `rebuild` with the statistics off.

    `weights` are those of snapshot `number`; `state` is the learner's own form.
    """

    experiment: str
    at: LogPosition
    rebuild: LogPosition
    number: int
    weights: tuple[float, ...]
    state: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCommand:
    """What a person wants of an experiment, and of no other one of the endpoint; `weights` by arm for `set`."""

    word: Word
    author: str
    at_us: int
    experiment: str
    weights: Mapping[str, float] = field(default_factory=dict)


def write_claim(instance: str) -> bytes:
    """Write a claim; its term is the offset that it gets."""
    return _body("claim", {"instance": instance, "at_us": now_us()})


def read_claim(record: Record) -> LeadershipClaim | None:
    """Read a record of `declared`."""
    data = _read(record, "claim")
    return None if data is None else _made(LeadershipClaim, {**data, "term": record.offset})


def write_verdict(verdict: ExperimentResult) -> bytes:
    """Write a record of `declared`."""
    return _body("verdict", asdict(verdict))


def read_verdict(record: Record) -> ExperimentResult | None:
    """Read a record of `declared`."""
    return _weighed(ExperimentResult, _read(record, "verdict"))


def write_snapshot(said: SnapshotRecord) -> bytes:
    """Write a record of `status`."""
    return _body("snapshot", asdict(said))


def read_snapshot(record: Record) -> SnapshotRecord | None:
    """Read a record of `status`."""
    return _weighed(SnapshotRecord, _read(record, "snapshot"))


def write_tick(tick: Tick) -> tuple[bytes, dict[str, Any]]:
    """Write a record of an event log: its body and its headers."""
    return _body("tick", asdict(tick)), {"cloudEvents_type": TICK}


def read_tick(record: Record) -> Tick | None:
    """Read a record of an event log."""
    return _made(Tick, _read(record, "tick")) if record.headers.get("cloudEvents_type") == TICK else None


def write_order(order: OperatorCommand) -> tuple[bytes, dict[str, Any]]:
    """Write a record of an event log: its body and its headers."""
    return _body("order", asdict(order)), {"cloudEvents_type": ORDER}


def read_order(record: Record) -> OperatorCommand | None:
    """Read a record of an event log."""
    if record.headers.get("cloudEvents_type") != ORDER:
        return None
    order = _made(OperatorCommand, _read(record, "order"))
    return order if order is not None and order.word in WORDS and isinstance(order.weights, dict) else None


def write_checkpoint(checkpoint: LearnerCheckpoint) -> tuple[bytes, dict[str, Any]]:
    """Write a record of an event log: its body and its headers."""
    return _body("checkpoint", asdict(checkpoint)), {"cloudEvents_type": CHECKPOINT}


def read_checkpoint(record: Record) -> LearnerCheckpoint | None:
    """Read a record of an event log."""
    if record.headers.get("cloudEvents_type") != CHECKPOINT:
        return None
    data = _read(record, "checkpoint")
    try:
        places = {name: _made(LogPosition, data[name]) for name in ("at", "rebuild")} if data else {}
    except (KeyError, TypeError, AttributeError):
        return None
    if None in places.values():
        return None
    return _weighed(LearnerCheckpoint, None if data is None else {**data, **places})


def _body(kind: str, data: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"v": VERSION, "kind": kind, **data})


def _read(record: Record, kind: str) -> dict[str, Any] | None:
    if b'"%b"' % kind.encode() not in record.body[:64]:  # most records of a log are something else
        return None
    try:
        data = orjson.loads(record.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict) or data.pop("v", None) != VERSION or data.pop("kind", None) != kind:
        return None
    return data


def _made(what: type[_T], data: dict[str, Any] | None) -> _T | None:
    """Return the record that `data` is, if its numbers are numbers and its names are names."""
    if data is None or not all(_is_number(data.get(name, 0)) for name in _NUMBERS):
        return None
    if not all(isinstance(data.get(name, ""), str) for name in _NAMES):
        return None
    if not isinstance(data.get("about", {}), dict):
        return None
    try:
        return what(**data)
    except TypeError:
        return None


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _weighed(what: type[_T], data: dict[str, Any] | None) -> _T | None:
    """Return the record that `data` is, if its weights are probabilities, or none at all."""
    weights = data.get("weights") if data else None
    if data is None or not isinstance(weights, list) or not _are_probabilities(weights):
        return None
    return _made(what, {**data, "weights": tuple(float(weight) for weight in weights)})


def _are_probabilities(weights: list[Any]) -> bool:
    numbers = all(type(weight) in (int, float) and 0.0 <= weight <= 1.0 for weight in weights)
    return numbers and (not weights or abs(sum(weights) - 1.0) < 1e-6)
