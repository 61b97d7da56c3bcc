"""The JSON Schema of an endpoint's file, for editors. Only `millrace check` tests rules about several keys at once."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from broker.records.endpoint import Endpoint
from broker.support.strict import duration
from router.declaration.registry import POLICIES

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def endpoint_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of one YAML document that declares an endpoint."""
    policies = [model for kind in POLICIES.values() for model in kind.models()]
    kinds: list[type[BaseModel]] = [Endpoint, *policies]
    _, generated = models_json_schema([(kind, "validation") for kind in kinds])
    models: dict[str, Any] = _tidied(generated)["$defs"]
    endpoint = models.pop("Endpoint")
    choices = [{"$ref": f"#/$defs/{kind.__name__}"} for kind in policies]
    endpoint["properties"]["policy"] = {"anyOf": [*choices, {"type": "object", "maxProperties": 0}]}
    return {"$schema": DRAFT, "title": "Endpoint", **endpoint, "$defs": dict(sorted(models.items()))}


def _tidied(node: Any) -> Any:
    """Return a schema with durations as text with units, and without titles that repeat a key."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _value(node, key) for key in node if key != "title" and not _is_repeated(node, key)}


def _value(node: dict[str, Any], key: str) -> Any:
    value = node[key]
    if key in ("properties", "$defs"):  # their keys are names of fields, which may be called default
        return {name: _tidied(inner) for name, inner in value.items()}
    if key == "default" and isinstance(value, float) and node.get("type") == "string":
        return duration(value)
    return _tidied(value)


def _is_repeated(node: dict[str, Any], key: str) -> bool:
    """Return True for the default of a nested model: the model's own schema has the default of each key."""
    return key == "default" and "$ref" in node
