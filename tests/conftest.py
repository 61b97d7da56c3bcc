"""Sorts the tests: which run side by side, which need a server, and which are slow.

`make test` runs two workers. All tests on servers are one group, because some of them kill a server. Each other module
is a group of its own, and so are its tests on the embedded broker.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests import servers

ROOT = Path(__file__).parent.parent
SERVERS = "tests.servers"
LONG_BYTES = 8
RAY = ("tests/deploy/processes/test_native.py", "tests/deploy/test_wiring.py", "tests/deploy/demo/")
"""These start Ray, which takes all of the machine: one at a time."""
SLOW = (
    "tests/contract/",
    "tests/deploy/cli/test_dead_letters.py",
    "tests/deploy/cli/test_look.py",
    "tests/deploy/cli/test_main.py",
    "tests/deploy/cli/test_route.py",
    "tests/deploy/demo/",
    "tests/deploy/processes/",
    "tests/deploy/supervision/",
    "tests/deploy/test_part.py",
    "tests/deploy/test_scenarios.py",
    "tests/deploy/test_up.py",
    "tests/deploy/test_wiring.py",
    "tests/docs/test_endpoint_schema.py",
    "tests/kill/",
    "tests/processors/test_runtimes.py",
    "tests/router/kinds/test_built_in.py",
    "tests/router/learning/test_kill.py",
    "tests/test_readme.py",
    "tests/test_servers.py",
)
"""These start the processes of an installation, or compute for long: `make test-fast` leaves them out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--no-servers`."""
    parser.addoption("--no-servers", action="store_true", help="skip the tests that need a server, even if one runs")


def pytest_configure(config: pytest.Config) -> None:
    """Hide the servers if they are not wanted."""
    config.addinivalue_line("markers", "slow: starts an installation, or computes for more than a few seconds")
    if config.getoption("--no-servers"):
        servers.hide()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name long bytes for their argument: compressed ones differ in each worker, by the time in their header."""
    return argname if isinstance(val, bytes) and len(val) > LONG_BYTES else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its group, and slow ones as slow."""
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        item.add_marker(pytest.mark.xdist_group(_group(item, path)))
        if path.startswith(SLOW):
            item.add_marker(pytest.mark.slow)


def _group(item: pytest.Item, path: str) -> str:
    if path.startswith(RAY):
        return "ray"
    if not any(_needs_servers(file) for file in {path, *_fixture_files(item)}):
        return path
    parameters = item.callspec.id if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ""
    return f"{path}-embedded" if "sqlite" in parameters else "servers"


def _fixture_files(item: pytest.Item) -> set[str]:
    """Return the modules of the tests that define fixtures of a test."""
    if not isinstance(item, pytest.Function):
        return set()
    definitions = item._fixtureinfo.name2fixturedefs.values()  # noqa: SLF001 - pytest has no public way to ask
    modules = {definition.func.__module__ for several in definitions for definition in several}
    return {f"{module.replace('.', '/')}.py" for module in modules if module.startswith("tests.")}


@cache
def _needs_servers(path: str) -> bool:
    """Return True if a module of the tests imports the servers, directly or by way of other modules of the tests."""
    seen, ahead = {path}, [path]
    while ahead:
        file = ahead.pop()
        if SERVERS in _imports(file):
            return True
        new = _imported_files(file) - seen
        seen |= new
        ahead += new
    return False


@cache
def _imports(path: str) -> frozenset[str]:
    """Return the modules that a file imports, also by `from tests import servers`."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    named = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    return frozenset({node.module for node in nodes if node.module} | named)


@cache
def _imported_files(path: str) -> frozenset[str]:
    """Return the modules of the tests that a module imports."""
    named = [f"{module.replace('.', '/')}.py" for module in _imports(path) if module.startswith("tests.")]
    return frozenset(file for file in named if (ROOT / file).exists())
