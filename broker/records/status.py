"""Records of the `status` log: announcements of processes, which are their heartbeats, and cancels of requests.

A process without a heartbeat for three periods counts as gone.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from broker.channels import NAME
from broker.messages import Record
from broker.protocol.answers import clean
from broker.protocol.ids import UID_BYTES
from broker.records.skipped import SKIPPED

VERSION = 1
HEARTBEAT_S = 2.0
FULL_EVERY_S = 30.0
SILENT_AFTER_S = 3 * HEARTBEAT_S

Part = Literal["gateway", "router", "learner", "catalog", "replica", "monitors"]
State = Literal["starting", "loading", "ready", "draining", "stopped", "failed"]

TROUBLES_LIMIT = 20
TROUBLE_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """The state of a process, announced every `HEARTBEAT_S`.

    `stats` is the work of a replica (see `replica_statistics`), empty before its first batch. `full` has the values
    that change seldom (a model's configuration and tensors); it is sent after a change and every `FULL_EVERY_S`, and is
    empty in between. `troubles` are texts about current troubles. `host` is the machine whose clock gave `at_us`.
    """

    instance: str
    part: Part
    state: State
    at_us: int
    host: str = ""
    pid: int = 0
    metrics_port: int = 0
    model: str = ""
    version: int = 0
    in_flight: int = 0
    error: str = ""
    troubles: tuple[str, ...] = ()
    stats: dict[str, Any] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)


def host_name() -> str:
    """Return the name of this machine as its processes announce it, at most 64 characters."""
    return clean(socket.gethostname())[:64]


def write_announcement(announcement: Announcement) -> bytes:
    """Return the record of an announcement."""
    return orjson.dumps({"v": VERSION, "kind": "announcement", **{k: getattr(announcement, k) for k in _FIELDS}})


def read_status(record: Record) -> Announcement | None:
    """Read a record; None for an unknown kind or version, and for a malformed record."""
    if _kind_of(record) != "announcement":
        return None
    try:
        body = _Announcement.model_validate_json(record.body)
    except ValidationError as exc:
        SKIPPED.note("announcement", record, exc.errors(include_url=False, include_input=False)[0])
        return None
    return Announcement(**{name: getattr(body, name) for name in _FIELDS})


class Cancel(NamedTuple):
    """A request that its client no longer wants, and its deadline, until which the cancel has to be remembered."""

    uid: bytes
    until_us: int


def write_cancels(cancels: Iterable[Cancel]) -> bytes:
    """Return one record with all these cancels."""
    return orjson.dumps(
        {"v": VERSION, "kind": "cancel", "requests": [[cancel.uid.hex(), cancel.until_us] for cancel in cancels]}
    )


def read_cancels(record: Record) -> list[Cancel]:
    """Read a record; empty for another kind or version, and for a malformed record."""
    if _kind_of(record) != "cancel":
        return []
    try:
        body = _Cancels.model_validate_json(record.body)
        return [Cancel(_uid(text), until_us) for text, until_us in body.requests]
    except (ValidationError, ValueError) as exc:
        SKIPPED.note("cancel", record, exc)
        return []


def _kind_of(record: Record) -> str:
    """Return the kind of a record of the known version; empty for anything else."""
    try:
        data = orjson.loads(record.body)
    except orjson.JSONDecodeError as exc:
        SKIPPED.note("status record", record, exc)
        return ""
    if not isinstance(data, dict) or data.get("v") != VERSION:
        return ""
    kind = data.get("kind")
    return kind if isinstance(kind, str) else ""


def _uid(text: str) -> bytes:
    uid = bytes.fromhex(text)
    if len(uid) != UID_BYTES:
        raise ValueError(f"a uid has {UID_BYTES} bytes, not {len(uid)}")
    return uid


_Time = Annotated[int, Field(ge=0, lt=1 << 60)]
_Word = Annotated[str, Field(max_length=255)]
_Text = Annotated[str, Field(max_length=64 * 1024)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Full(BaseModel):
    """The keys of `full` that Millrace uses itself; the others are only shown."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    max_batch_size: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    metadata: dict[str, Any] = {}
    config: dict[str, Any] = {}
    models: dict[str, list[int]] = {}
    problems: dict[str, str] = {}


class _Announcement(_Strict):
    instance: Annotated[str, Field(min_length=1, max_length=255)]
    part: Part
    state: State
    at_us: _Time
    host: _Word = ""
    pid: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    metrics_port: Annotated[int, Field(ge=0, lt=1 << 16)] = 0
    model: _Word = ""
    version: Annotated[int, Field(ge=0, le=999_999_999)] = 0
    in_flight: Annotated[int, Field(ge=0, lt=1 << 40)] = 0
    error: _Text = ""
    troubles: Annotated[tuple[_Text, ...], Field(max_length=100)] = ()
    stats: dict[str, Any] = {}
    full: dict[str, Any] = {}

    @field_validator("full")
    @classmethod
    def _check_full(cls, full: dict[str, Any]) -> dict[str, Any]:
        _Full.model_validate(full)
        return full

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if self.part == "replica" and not (NAME.fullmatch(self.model) and self.version):
            raise ValueError(f"a replica of {self.model!r}@{self.version} serves no model version")
        return self


class _Cancels(_Strict):
    requests: tuple[tuple[_Word, _Time], ...]


_FIELDS = tuple(Announcement.__dataclass_fields__)
