"""A stricter YAML reader: `on`, `off`, `yes`, `no` and dates are read as text, and duplicate keys are errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from broker.errors import Misconfigured

_TRUE_OR_FALSE = re.compile("true|True|TRUE|false|False|FALSE")
_AS_TEXT = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"}


class _Loader(yaml.SafeLoader):
    """PyYAML alone would read the key of `{on: [failed]}` as true and would keep the last of two equal keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the library's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _AS_TEXT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _TRUE_OR_FALSE, list("tTfF"))


def read_yaml(path: Path) -> list[Any]:
    """Return the non-empty documents of a file.

    Raises Misconfigured. Its text quotes no value of the file, because values may be secret.
    """
    try:
        return documents(path.read_text("utf-8"))
    except UnicodeDecodeError as exc:
        raise Misconfigured(f"{path}: this is not UTF-8: {exc.reason}") from exc
    except OSError as exc:
        raise Misconfigured(f"{path} cannot be read: {exc.strerror}") from exc
    except Misconfigured as exc:
        raise Misconfigured(f"{path}: {exc}") from None


def documents(text: str) -> list[Any]:
    """Return the non-empty documents of a text; raises Misconfigured."""
    try:
        found = list(yaml.load_all(text, _Loader))
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # e.g. a number that is too long, or too many brackets
        raise Misconfigured(f"this is not YAML: {_problem(exc)}") from None
    return [document for document in found if document is not None]


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or 'something in it cannot be read'}{where}"
