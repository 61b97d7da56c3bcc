"""The import root of a model's version: what lies beside its `model.py` is imported by it, and by nobody else.

`import helper`, `from .helper import x` and packages work as beside a script. The modules are kept under a name of the
version's own, so that two versions in a process never share one; the process's own imports do not see the folder.
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
    """One version's folder as the place that its code imports from; `name` is what its modules are kept under."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = str(folder)
        self._held: dict[str, bool] = {}
        self._finder = _Finder(self)
        self._late = _LateFinder(self)

    def load(self, path: Path) -> ModuleType:
        """Return the module in `path`, executed. It raises what its code raises, and then the root is closed."""
        sys.meta_path.insert(0, self._finder)
        sys.meta_path.append(self._late)
        spec = ModuleSpec(self.name, _Loader(self, self.name, str(path)), origin=str(path), is_package=True)
        spec.has_location = True
        spec.submodule_search_locations = [self._folder]
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and pickle look a class's module up there; a helper may import the model's file by its own name.
        sys.modules[self.name] = sys.modules[f"{self.name}.{path.stem}"] = module
        try:
            spec.loader.exec_module(module)  # type: ignore[union-attr]  # it is ours
        except BaseException:
            self.close()
            raise
        return module

    def close(self) -> None:
        """Forget all modules of the version."""
        for finder in (self._finder, self._late):
            if finder in sys.meta_path:
                sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if self.owns(getattr(module, "__name__", "")) or self.owns(name):
                del sys.modules[name]

    def owns(self, name: str) -> bool:
        """Tell whether a module's full name is one of this root's."""
        return name == self.name or name.startswith(f"{self.name}.")

    def holds(self, top: str) -> bool:
        """Tell whether the folder has a module or package of this name that its code means by it."""
        if top not in self._held:
            found = PathFinder.find_spec(top, [self._folder])
            plain = found is not None and found.origin is not None
            # A folder without __init__.py, of weights for example, does not hide a package that is installed.
            self._held[top] = plain or (found is not None and not _is_installed(top))
        return self._held[top]

    def spec_of(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Return how a module of this root is loaded."""
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(self, name, str(spec.origin))
            spec.cached = None
        return spec

    def builtins(self) -> dict[str, Any]:
        """Return the builtins that code of this root runs with: its `import` looks into the folder first."""
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
        by_library = type(fromlist) is list  # pickle, through Python's C interface, looks in sys.modules afterwards
        if level or by_library or not self.holds(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if fromlist:
            return builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist)
        importlib.import_module(f"{self.name}.{name}")
        return sys.modules[f"{self.name}.{top}"]


class _Finder(MetaPathFinder):
    """Finds the modules that are kept under a root's name."""

    def __init__(self, root: ImportRoot) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See the port."""
        del target
        return self._root.spec_of(fullname, path) if self._root.owns(fullname) else None


class _LateFinder(MetaPathFinder):
    """Finds a root's modules by their plain names, after everybody else: pickles and `importlib` ask in that way."""

    def __init__(self, root: ImportRoot) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See the port."""
        del path, target
        if not self._root.holds(fullname.partition(".")[0]):
            return None
        return ModuleSpec(fullname, _Alias(f"{self._root.name}.{fullname}"))


class _Alias(Loader):
    """Gives a module that is kept under another name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module itself."""
        del spec
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is."""
        module.__spec__ = self._spec


class _Loader(SourceFileLoader):
    """Leaves no compiled file behind: a repository can be read-only, and is watched."""

    def __init__(self, root: ImportRoot, name: str, path: str) -> None:
        super().__init__(name, path)
        self._root = root

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code with the root's own `import`."""
        module.__dict__["__builtins__"] = self._root.builtins()
        super().exec_module(module)

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing."""


def _is_installed(top: str) -> bool:
    return top in sys.modules or PathFinder.find_spec(top) is not None
