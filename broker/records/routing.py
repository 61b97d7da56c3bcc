"""Records about routing: leadership claims, experiment results, snapshots, ticks, checkpoints and operator commands.

Claims and results are on `declared`, snapshots on `status`, and the others on an endpoint's event log. All are JSON
with a version. A record that cannot be read is None, and is skipped.
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
    """Return a short hash of the experiment in a declaration; learning starts again if it changes.

    It depends on the order of the arms, because weights and statistics refer to an arm by its position.
    """
    data = declaration.model_dump(mode="json", exclude={"deadline", "retry", "results", "log"})
    data["arms"] = list(data["arms"].items())
    return hashlib.blake2b(orjson.dumps(data, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipClaim:
    """A learner leads from now on. `term` is the record's offset on `declared`; the newest claim counts."""

    term: int
    instance: str
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    """The probabilities of the arms, in the order of the declaration, from a learner that claimed `term`.

    `number` is the tick at which it was taken. `models` are the coefficients of a policy that uses features.
    """

    endpoint: str
    experiment: str
    term: int
    number: int
    weights: tuple[float, ...]
    phase: str = ""
    models: Any = None
    about: Mapping[str, Any] = field(default_factory=dict)  # an explanation of the weights, for people
    at_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResult:
    """The final result of an experiment. It stays valid even if the learner loses its state."""

    endpoint: str
    experiment: str
    number: int
    phase: str
    weights: tuple[float, ...]
    at_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One second of an event log's clock. The first record with a higher number counts, from any learner."""

    number: int
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """A position in a log: the record at `offset` is the first one after tick `number`, which was at `at_us`."""

    offset: int
    number: int
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerCheckpoint:
    """The learner's state of an experiment at position `at`.

    A learner without other state starts from it, and reads the log again from `rebuild` on, without changing
    statistics. `weights` are those of snapshot `number`; `state` has a form private to the learner.
    """

    experiment: str
    at: LogPosition
    rebuild: LogPosition
    number: int
    weights: tuple[float, ...]
    state: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCommand:
    """A person's command for one experiment of an endpoint; `weights` by arm for `set`."""

    word: Word
    author: str
    at_us: int
    experiment: str
    weights: Mapping[str, float] = field(default_factory=dict)


def write_claim(instance: str) -> bytes:
    """Return the record of a claim; its term is the offset that it gets."""
    return _body("claim", {"instance": instance, "at_us": now_us()})


def read_claim(record: Record) -> LeadershipClaim | None:
    """Read a record of `declared`; None if it is no claim."""
    data = _read(record, "claim")
    return None if data is None else _build(LeadershipClaim, {**data, "term": record.offset})


def write_experiment_result(result: ExperimentResult) -> bytes:
    """Return a record for `declared`."""
    return _body("verdict", asdict(result))


def read_experiment_result(record: Record) -> ExperimentResult | None:
    """Read a record of `declared`; None if it is no experiment result."""
    return _build_weighted(ExperimentResult, _read(record, "verdict"))


def write_snapshot(snapshot: SnapshotRecord) -> bytes:
    """Return a record for `status`."""
    return _body("snapshot", asdict(snapshot))


def read_snapshot(record: Record) -> SnapshotRecord | None:
    """Read a record of `status`; None if it is no snapshot."""
    return _build_weighted(SnapshotRecord, _read(record, "snapshot"))


def write_tick(tick: Tick) -> tuple[bytes, dict[str, Any]]:
    """Return the body and the headers of a record for an event log."""
    return _body("tick", asdict(tick)), {"cloudEvents_type": TICK}


def read_tick(record: Record) -> Tick | None:
    """Read a record of an event log; None if it is no tick."""
    return _build(Tick, _read(record, "tick")) if record.headers.get("cloudEvents_type") == TICK else None


def write_operator_command(command: OperatorCommand) -> tuple[bytes, dict[str, Any]]:
    """Return the body and the headers of a record for an event log."""
    return _body("order", asdict(command)), {"cloudEvents_type": ORDER}


def read_operator_command(record: Record) -> OperatorCommand | None:
    """Read a record of an event log; None if it is no operator command."""
    if record.headers.get("cloudEvents_type") != ORDER:
        return None
    command = _build(OperatorCommand, _read(record, "order"))
    return command if command is not None and command.word in WORDS and isinstance(command.weights, dict) else None


def write_checkpoint(checkpoint: LearnerCheckpoint) -> tuple[bytes, dict[str, Any]]:
    """Return the body and the headers of a record for an event log."""
    return _body("checkpoint", asdict(checkpoint)), {"cloudEvents_type": CHECKPOINT}


def read_checkpoint(record: Record) -> LearnerCheckpoint | None:
    """Read a record of an event log; None if it is no checkpoint."""
    if record.headers.get("cloudEvents_type") != CHECKPOINT:
        return None
    data = _read(record, "checkpoint")
    try:
        positions = {name: _build(LogPosition, data[name]) for name in ("at", "rebuild")} if data else {}
    except (KeyError, TypeError, AttributeError):
        return None
    if None in positions.values():
        return None
    return _build_weighted(LearnerCheckpoint, None if data is None else {**data, **positions})


def _body(kind: str, data: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"v": VERSION, "kind": kind, **data})


def _read(record: Record, kind: str) -> dict[str, Any] | None:
    if b'"%b"' % kind.encode() not in record.body[:64]:  # most records of a log are of another kind
        return None
    try:
        data = orjson.loads(record.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict) or data.pop("v", None) != VERSION or data.pop("kind", None) != kind:
        return None
    return data


def _build(kind: type[_T], data: dict[str, Any] | None) -> _T | None:
    """Build a record from `data`; None if its numbers, names or keys are malformed."""
    if data is None or not all(_is_number(data.get(name, 0)) for name in _NUMBERS):
        return None
    if not all(isinstance(data.get(name, ""), str) for name in _NAMES):
        return None
    if not isinstance(data.get("about", {}), dict):
        return None
    try:
        return kind(**data)
    except TypeError:
        return None


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _build_weighted(kind: type[_T], data: dict[str, Any] | None) -> _T | None:
    """Build a record from `data`; None if its weights are neither probabilities nor empty."""
    weights = data.get("weights") if data else None
    if data is None or not isinstance(weights, list) or not _are_probabilities(weights):
        return None
    return _build(kind, {**data, "weights": tuple(float(weight) for weight in weights)})


def _are_probabilities(weights: list[Any]) -> bool:
    numbers = all(type(weight) in (int, float) and 0.0 <= weight <= 1.0 for weight in weights)
    return numbers and (not weights or abs(sum(weights) - 1.0) < 1e-6)
