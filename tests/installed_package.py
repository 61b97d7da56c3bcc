"""A package of someone else, installed for one test: a module and its entry points."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from monitors.registry import installed_monitors
from processors.runtimes.table import installed_runtimes


@contextmanager
def installed_package(
    folder: Path, name: str, modules: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]
) -> Iterator[None]:
    """Install modules (name to source) with entry points (group to name to object) into `folder`, on the import path.

    The registries forget what is installed before and after.
    """
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, objects in entry_points.items():
        lines += [f"[{group}]", *(f"{key} = {path}" for key, path in objects.items())]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    sys.path.insert(0, str(folder))
    _forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for module in modules:
            sys.modules.pop(module, None)
        _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    installed_runtimes.cache_clear()
    installed_monitors.cache_clear()
