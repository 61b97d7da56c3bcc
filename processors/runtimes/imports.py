"""The import root of one version of a Python model: only its own code can import the modules beside its `model.py`.

`import helper`, `from .helper import x` and packages work as beside a script. The modules are registered under a prefix
of the version, so two versions in one process never share a module, and the process itself cannot import them.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any


class ImportRoot:
    """The folder of a version, from which its code imports; its modules are registered under the prefix `name`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = str(folder)
        self._held: dict[str, bool] = {}
        self._finder = _Finder(self)
        self._late = _LateFinder(self)

    def load(self, path: Path) -> ModuleType:
        """Import the module in `path` and return it. If its code raises, the root is closed, and the error goes on."""
        sys.meta_path.insert(0, self._finder)
        sys.meta_path.append(self._late)
        spec = ModuleSpec(self.name, _Loader(self, self.name, str(path)), origin=str(path), is_package=True)
        spec.has_location = True
        spec.submodule_search_locations = [self._folder]
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and pickle find a class's module there, and a helper may import the model file by its own name.
        sys.modules[self.name] = sys.modules[f"{self.name}.{path.stem}"] = module
        try:
            spec.loader.exec_module(module)  # type: ignore[union-attr]  # set above
        except BaseException:
            self.close()
            raise
        return module

    def close(self) -> None:
        """Remove all modules of the version from the process."""
        for finder in (self._finder, self._late):
            if finder in sys.meta_path:
                sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if self.owns(getattr(module, "__name__", "")) or self.owns(name):
                del sys.modules[name]

    def owns(self, name: str) -> bool:
        """Return True if the full name of a module is below the prefix of this root."""
        return name == self.name or name.startswith(f"{self.name}.")

    def holds(self, top: str) -> bool:
        """Return True if `import top` in the code of this root means a module or package of the folder."""
        if top not in self._held:
            found = PathFinder.find_spec(top, [self._folder])
            plain = found is not None and found.origin is not None
            # A folder without __init__.py, for example of weights, does not hide an installed package.
            self._held[top] = plain or (found is not None and not _is_installed(top))
        return self._held[top]

    def spec_of(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Return the spec of a module of this root."""
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(self, name, str(spec.origin))
            spec.cached = None
        return spec

    def builtins(self) -> dict[str, Any]:
        """Return the builtins for the code of this root: its `import` searches the folder first."""
        return {**builtins.__dict__, "__import__": self._import}

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the names of the builtin
        locals: Mapping[str, Any] | None = None,  # noqa: A002 - the names of the builtin
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        by_library = type(fromlist) is list  # pickle calls through the C interface and reads sys.modules afterwards
        if level or by_library or not self.holds(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if fromlist:
            return builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist)
        importlib.import_module(f"{self.name}.{name}")
        return sys.modules[f"{self.name}.{top}"]


class _Finder(MetaPathFinder):
    """Finds the modules below the prefix of a root."""

    def __init__(self, root: ImportRoot) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del target
        return self._root.spec_of(fullname, path) if self._root.owns(fullname) else None


class _LateFinder(MetaPathFinder):
    """Finds a root's modules by their plain names, after all other finders, for pickle and `importlib`."""

    def __init__(self, root: ImportRoot) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if not self._root.holds(fullname.partition(".")[0]):
            return None
        return ModuleSpec(fullname, _Alias(f"{self._root.name}.{fullname}"))


class _Alias(Loader):
    """Loads a module that is already registered under another name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        del spec
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Loader(SourceFileLoader):
    """Writes no compiled files: a repository may be read-only, and each new file would change its fingerprint."""

    def __init__(self, root: ImportRoot, name: str, path: str) -> None:
        super().__init__(name, path)
        self._root = root

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code with the root's own `import`."""
        module.__dict__["__builtins__"] = self._root.builtins()
        super().exec_module(module)

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write no compiled file."""


def _is_installed(top: str) -> bool:
    return top in sys.modules or PathFinder.find_spec(top) is not None
