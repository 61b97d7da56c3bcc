"""Sorts the tests: which run side by side, which need a server, and which are slow.

`make test` runs two workers. All tests on servers are one group, because some of them kill a server. Each other module
is a group of its own, and so are its tests on the embedded broker.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

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
    "tests/gateway/results/test_stored_requests.py",
    "tests/gateway/test_triton_examples.py",
    "tests/kill/",
    "tests/processors/test_runtimes.py",
    "tests/router/evidence/test_estimates.py",
    "tests/router/kinds/test_built_in.py",
    "tests/router/learning/test_kill.py",
    "tests/router/policies/test_assignment.py",
    "tests/router/simulation/test_environments.py",
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
    """Mark slow tests."""
    for item in items:
        if item.path.relative_to(ROOT).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Hand out groups of tests to the workers, the largest first."""
    return GroupScheduling(config, log)


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist carries no types
    """Runs the tests of a group one after the other in one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid, with_servers=not self.config.getoption("--no-servers"))


def group_of(nodeid: str, *, with_servers: bool = True) -> str:
    """Return the name of a test's group."""
    path, _, name = nodeid.partition("::")
    if path.startswith(RAY):
        return "ray"
    if not with_servers or not _needs_servers(path):
        return path
    return f"{path}-embedded" if "sqlite" in name.partition("[")[2] else "servers"


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
    """Return the modules of the tests that a module imports, and the conftest.py of its folder."""
    named = {f"{module.replace('.', '/')}.py" for module in _imports(path) if module.startswith("tests.")}
    beside = Path(path).with_name("conftest.py").as_posix()
    return frozenset(file for file in named | {beside} if (ROOT / file).exists()) - {"tests/conftest.py"}
