"""Records of the `declared` log: the decisions of people and of the catalog. Never trimmed, read from its beginning."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from broker.channels import check_name
from broker.errors import Misconfigured
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint, read_endpoint
from broker.records.skipped import SKIPPED

VERSION = 1

_T = TypeVar("_T", str, int)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointDeclaration:
    """The declaration of an endpoint, valid from now on; None in `declaration` withdraws the endpoint."""

    endpoint: str
    declaration: Endpoint | None
    digest: str
    author: str
    at_us: int


def endpoint_declared(declaration: Endpoint, author: str) -> bytes:
    """Return the record that declares an endpoint."""
    data = {"endpoint": declaration.endpoint, "declaration": _body(declaration), "digest": digest(declaration)}
    return _record("endpoint", {**data, "author": author})


def endpoint_withdrawn(endpoint: str, author: str) -> bytes:
    """Return the record that withdraws an endpoint."""
    return _record("endpoint", {"endpoint": endpoint, "declaration": None, "digest": "", "author": author})


def digest(declaration: Endpoint) -> str:
    """Return a short hash of a declaration, equal for any order of its keys except the order of its arms.

    Weights, masks and models refer to an arm by its position, and requests outside an experiment get the first arm.
    """
    body = _body(declaration)
    body["arms"] = list(body["arms"].items())
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(canonical, digest_size=8).hexdigest()


def read_declared(record: Record) -> EndpointDeclaration | None:
    """Read a record; None for an unknown kind or version, and for a malformed record, which is counted as skipped."""
    try:
        data = orjson.loads(record.body)
        if data["v"] != VERSION or data["kind"] != "endpoint":
            return None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    try:
        name, declared = check_name("endpoint", data["endpoint"]), data["declaration"]
        declaration = read_endpoint(declared, source=f"declared {record.offset}") if declared else None
        if declaration is not None and declaration.endpoint != name:
            raise ValueError(f"{declaration.endpoint} is declared in the name of {name}")  # noqa: TRY301 - as below
        return EndpointDeclaration(
            endpoint=name,
            declaration=declaration,
            digest=_typed(data, "digest", str),
            author=_typed(data, "author", str),
            at_us=_typed(data, "at_us", int),
        )
    except (KeyError, TypeError, ValueError, Misconfigured) as exc:
        SKIPPED.note("declaration", record, exc)
        return None


def _typed(data: dict[str, Any], name: str, kind: type[_T]) -> _T:
    value = data[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {str(value)[:100]!r}")
    return value


def _body(declaration: Endpoint) -> dict[str, Any]:
    """Return a declaration in the form in which a person writes it."""
    return declaration.model_dump(mode="json", by_alias=True)


def _record(kind: str, data: dict[str, Any]) -> bytes:
    return orjson.dumps({"v": VERSION, "kind": kind, "at_us": now_us(), **data})
