"""`python -m deploy.settings_page` writes docs/settings.md: every key of `millrace.yaml`, from the settings' source."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from broker.support.strict import Duration
from deploy.settings import Host, Settings, Size

PAGE = Path(__file__).parent.parent / "docs/settings.md"
KINDS = {"size": Size, "duration": Duration, "address": Host}
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
INTRODUCTION = """# Settings

`millrace.yaml` is read once, when a process starts. A value is taken from the first of these that has it: a flag of the
command, `MILLRACE__SECTION__KEY` in the environment, the file, the default. In the file `${NAME}` is replaced by that
environment variable, and `key_file: path` gives `key` from a file. `millrace check` names every mistake and the nearest
key.

A duration is a number with `us`, `ms`, `s`, `m`, `h` or `d`; a size a number with `B`, `KiB`, `MiB` or `GiB`.

This page is generated from `deploy/settings.py` by `python -m deploy.settings_page`.
"""


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    sections = "".join(_section(name, model) for name, model in _models("", Settings))
    return f"{INTRODUCTION}{sections}"


def _models(name: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a model and all below it, with their dotted keys."""
    yield name, model
    for key, field in model.model_fields.items():
        if _is_model(field):
            yield from _models(f"{name}.{key}".lstrip("."), typing.cast("type[BaseModel]", field.annotation))


def _section(name: str, model: type[BaseModel]) -> str:
    rows = "".join(_row(name, key, field) for key, field in model.model_fields.items() if not _is_hidden(field))
    title = f"\n## {name or 'The file'}\n\n{model.__doc__}\n"
    return title + (f"\n| key | kind | default | meaning |\n|---|---|---|---|\n{rows}" if rows else "")


def _row(name: str, key: str, field: FieldInfo) -> str:
    dotted = f"{name}.{key}".lstrip(".")
    kind, default = _kind(field), _default(field)
    return f"| `{dotted}` | {kind} | {default} | {field.description} |\n"


def _is_model(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _is_hidden(field: FieldInfo) -> bool:
    return bool(field.exclude) or _is_model(field)


def _kind(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(field.annotation))
    for kind, named in KINDS.items():
        if _readers(get_args(named)[1:]) & _readers(field.metadata):
            return kind
    plain: dict[Any, str] = {
        bool: "`true` or `false`",
        int: "integer",
        float: "number",
        str: "text",
        SecretStr: "secret",
    }
    return plain[field.annotation]


def _readers(metadata: Sequence[Any]) -> set[Any]:
    """Return the functions that read a value as people write it."""
    return {each.func for each in metadata if isinstance(each, BeforeValidator)}


def _default(field: FieldInfo) -> str:
    value, kind = field.default, _kind(field)
    if isinstance(value, SecretStr) or value == "":
        return "empty"
    if kind == "size":
        return f"`{_size(value)}`"
    if kind == "duration":
        return f"`{value:g}s`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _size(value: int) -> str:
    """Write a size in the largest unit that divides it."""
    for unit, name in UNITS:
        if value and value % unit == 0:
            return f"{value // unit}{name}"
    return f"{value}B"


if __name__ == "__main__":
    PAGE.write_text(settings_page(), "utf-8")
