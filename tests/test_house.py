"""What holds for the whole checkout, whatever the code does."""

from __future__ import annotations

from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("broker", "processors", "router", "gateway", "monitors", "deploy", "loadtests", "tests")
LINES_LIMIT = 400


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_owns_one_of_our_package_names(name: str) -> None:
    owners = set(packages_distributions().get(name, []))
    assert owners <= {"millrace"}


@pytest.mark.parametrize("name", PACKAGES)
def test_our_package_is_the_one_that_is_imported(name: str) -> None:
    module = __import__(name)
    assert module.__file__ == str(ROOT / name / "__init__.py")


def test_no_file_is_too_long_to_read() -> None:
    files = chain.from_iterable((ROOT / name).rglob("*.py") for name in PACKAGES)
    too_long = [str(file.relative_to(ROOT)) for file in files if _lines(file) > LINES_LIMIT]
    assert too_long == []


def test_the_constraints_name_no_download_address() -> None:
    assert "://" not in (ROOT / "constraints.txt").read_text()


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines())
