"""Records of the `status` log: who is there, with the heartbeat inside, and which requests nobody wants any more.

Who is silent for three periods is gone.
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
    """What a process says of itself every `HEARTBEAT_S`.

    `stats` is what a replica has computed (see `replica_statistics`), empty before it has. `full` carries what changes
    seldom (a model's configuration and tensors); it is sent at a change and every `FULL_EVERY_S`, and is empty in
    between. `troubles` are what is wrong now, in words. `host` names the machine whose clock wrote `at_us`.
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
    """Return the name of this machine, as its processes announce it."""
    return clean(socket.gethostname())[:64]


def write_announcement(announcement: Announcement) -> bytes:
    """Write an announcement."""
    return orjson.dumps({"v": VERSION, "kind": "announcement", **{k: getattr(announcement, k) for k in _FIELDS}})


def read_status(record: Record) -> Announcement | None:
    """Read a record; None for one of a kind or version that this process does not know, or that is broken."""
    if _kind_of(record) != "announcement":
        return None
    try:
        said = _Announcement.model_validate_json(record.body)
    except ValidationError as exc:
        SKIPPED.note("announcement", record, exc.errors(include_url=False, include_input=False)[0])
        return None
    return Announcement(**{name: getattr(said, name) for name in _FIELDS})


class Cancel(NamedTuple):
    """A request that nobody wants any more, and until when that has to be remembered: its deadline."""

    uid: bytes
    until_us: int


def write_cancels(cancels: Iterable[Cancel]) -> bytes:
    """Write a record of cancels."""
    return orjson.dumps(
        {"v": VERSION, "kind": "cancel", "requests": [[cancel.uid.hex(), cancel.until_us] for cancel in cancels]}
    )


def read_cancels(record: Record) -> list[Cancel]:
    """Read a record; nothing for one of another kind or version, or that is broken."""
    if _kind_of(record) != "cancel":
        return []
    try:
        said = _Cancels.model_validate_json(record.body)
        return [Cancel(_uid(text), until_us) for text, until_us in said.requests]
    except (ValidationError, ValueError) as exc:
        SKIPPED.note("cancel", record, exc)
        return []


def _kind_of(record: Record) -> str:
    """Return the kind of a record of the version that is known here; empty for anything else."""
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
        raise ValueError(f"{len(uid)} bytes are no uid")
    return uid


_Time = Annotated[int, Field(ge=0, lt=1 << 60)]
_Word = Annotated[str, Field(max_length=255)]
_Text = Annotated[str, Field(max_length=64 * 1024)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Full(BaseModel):
    """The keys of `full` that somebody computes with; the others are only shown."""

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
