"""`python -m tests.house` prints the measures of the code base that `tests/test_house.py` bounds.

The measures are those of a reader: how long a file, a class and a function are, how plain the sentences are, whether a
test is where its module is, and whether imports run in one direction.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PACKAGES = ("broker", "router", "processors", "gateway", "monitors", "deploy", "loadtests")
RIDDLES = re.compile(r"\b(what|whoever|whatever|nobody|says)\b", re.IGNORECASE)
LONG_FUNCTION = 40
SENTENCE_WORDS = 3  # a shorter text is a name or a key
PORTS = ("Broker", "HttpToolsProtocol", "EndingConnection")
"""Interfaces with many methods: a class that implements one has them all."""

WORD = re.compile(r"[A-Za-z']+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A parsed file of the project."""

    path: Path
    source: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    @property
    def lines(self) -> int:
        """The number of lines."""
        return len(self.source.splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSize:
    """The size of a class, which is the unit that a reader has to hold."""

    module: str
    name: str
    lines: int
    methods: int
    attributes: int  # fields of records, which are set from outside, do not count
    is_port: bool


@cache
def modules(package: str) -> tuple[Module, ...]:
    """Return all modules of a package."""
    files = sorted((ROOT / package).rglob("*.py"))
    sources = [file.read_text("utf-8") for file in files]
    return tuple(
        Module(path=file, source=source, tree=ast.parse(source)) for file, source in zip(files, sources, strict=True)
    )


def prose(module: Module) -> Iterator[tuple[int, str]]:
    """Yield docstrings, comments and texts of at least `SENTENCE_WORDS` words, with their lines."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") >= SENTENCE_WORDS:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(module.source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string[1:]


def riddles(package: str) -> float:
    """Return the number of matches of `RIDDLES` in 1,000 words of prose."""
    texts = [text for module in modules(package) for _, text in prose(module)]
    words = sum(len(WORD.findall(text)) for text in texts)
    return 1000.0 * sum(len(RIDDLES.findall(text)) for text in texts) / max(1, words)


def class_sizes(package: str) -> Iterator[ClassSize]:
    """Yield the size of each class."""
    for module in modules(package):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                yield _size(module, node)


def class_names() -> Mapping[str, Sequence[str]]:
    """Return the modules of each public class name."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for module in modules(package):
            for node in module.tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(module.name)
    return found


def mirrored(package: str) -> tuple[int, int]:
    """Return how many modules have a test module of the same name and place, and how many modules there are."""
    sources = [module.path for module in modules(package) if module.path.name != "__init__.py"]
    tests = [ROOT / "tests" / file.relative_to(ROOT).parent / f"test_{file.name}" for file in sources]
    return sum(test.exists() for test in tests), len(sources)


def imported_tests() -> list[str]:
    """Return the imports of a test module by another module of the tests."""
    return [
        f"{module.name} -> {name}"
        for module in modules("tests")
        for node in ast.walk(module.tree)
        for name in _imported_names(node)
        if re.search(r"\.test_\w+(\.\w+)?$", name)
    ]


def _imported_names(node: ast.AST) -> list[str]:
    """Return the dotted names that an import statement loads, whether modules or members of them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    return []


def cycles(package: str) -> list[tuple[str, ...]]:
    """Return the groups of modules that import each other, directly or by way of others."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=False)
    edges = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    reached = {name: _reachable(name, edges) for name in edges}
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in edges}
    return sorted(group for group in groups if len(group) > 1)


def _reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = edges[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


def _size(module: Module, node: ast.ClassDef) -> ClassSize:
    functions = [each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
    stored = {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and _is_self(each.value)
    }
    return ClassSize(
        module=module.name,
        name=node.name,
        lines=(node.end_lineno or 0) - node.lineno + 1,
        methods=sum(not each.name.startswith("__") for each in functions),
        attributes=len(stored),
        is_port=node.name in PORTS or any(ast.unparse(base) in PORTS for base in node.bases),
    )


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _functions(package: str) -> Iterator[int]:
    for module in modules(package):
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield (node.end_lineno or 0) - node.lineno + 1


def report() -> str:
    """Return all measures as text, one row a package."""
    head = "package      modules   lines  median longest  riddles  mirrored  cycles"
    functions = Counter(length > LONG_FUNCTION for package in PACKAGES for length in _functions(package))
    largest = sorted((size for package in PACKAGES for size in class_sizes(package)), key=lambda size: -size.lines)
    lines = [
        head,
        *(_row(package) for package in (*PACKAGES, "tests")),
        "",
        f"functions over {LONG_FUNCTION} lines: {functions[True]} of {functions.total()}",
        f"public class names in several modules: {sum(len(where) > 1 for where in class_names().values())}",
        f"tests that import a test: {len(imported_tests())}",
        f"lines of the README: {len((ROOT / 'README.md').read_text('utf-8').splitlines())}",
        "",
        "largest classes: lines, methods, attributes",
        *(f"  {size.module}.{size.name}: {size.lines}, {size.methods}, {size.attributes}" for size in largest[:12]),
    ]
    return "\n".join(lines) + "\n"


def _row(package: str) -> str:
    lengths = [module.lines for module in modules(package)]
    have, total = mirrored(package)
    share = f"{have}/{total}" if package != "tests" else ""
    return (
        f"{package:<12}{len(lengths):>8}{sum(lengths):>8}{statistics.median(lengths):>8.0f}{max(lengths):>8}"
        f"{riddles(package):>9.1f}{share:>10}{len(cycles(package)):>8}"
    )


if __name__ == "__main__":
    sys.stdout.write(report())
