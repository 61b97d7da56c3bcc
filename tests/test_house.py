"""What holds for the whole checkout, whatever the code does."""

from __future__ import annotations

from importlib.metadata import packages_distributions

import pytest

from tests import house
from tests.house import ROOT, ClassSize

PACKAGES = (*house.PACKAGES, "tests")
FILE_LINES = 400
RIDDLES_PER_1000_WORDS, TEST_RIDDLES_PER_1000_WORDS = 0.5, 2.0
CLASS_LINES, CLASS_METHODS, CLASS_ATTRIBUTES = 200, 15, 12  # "about": a tenth more is let pass
TOLERANCE = 1.1


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_owns_one_of_our_package_names(name: str) -> None:
    owners = set(packages_distributions().get(name, []))
    assert owners <= {"millrace"}


@pytest.mark.parametrize("name", PACKAGES)
def test_our_package_is_the_one_that_is_imported(name: str) -> None:
    module = __import__(name)
    assert module.__file__ == str(ROOT / name / "__init__.py")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_too_long_to_read(package: str) -> None:
    assert [module.name for module in house.modules(package) if module.lines > FILE_LINES] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_sentences_are_plain(package: str) -> None:
    """what, whoever, whatever, nobody and says stand for noun clauses and for machines that speak."""
    assert house.riddles(package) <= (TEST_RIDDLES_PER_1000_WORDS if package == "tests" else RIDDLES_PER_1000_WORDS)


@pytest.mark.parametrize("package", house.PACKAGES)
def test_a_class_can_be_held_in_the_head(package: str) -> None:
    assert [size for size in house.class_sizes(package) if _is_too_large(size)] == []


@pytest.mark.parametrize("package", house.PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    assert house.cycles(package) == []


def test_a_public_class_name_stands_in_one_module() -> None:
    assert {name: where for name, where in house.class_names().items() if len(where) > 1} == {}


def test_no_test_imports_a_test() -> None:
    assert house.imported_tests() == []


def test_every_line_is_formatted_by_the_formatter() -> None:
    exempt = "fmt: " + "skip"
    assert [module.name for package in PACKAGES for module in house.modules(package) if exempt in module.source] == []


def test_the_constraints_name_no_download_address() -> None:
    assert "://" not in (ROOT / "constraints.txt").read_text()


def _is_too_large(size: ClassSize) -> bool:
    if size.is_port:  # as many methods as the port promises
        return False
    return (
        size.lines > TOLERANCE * CLASS_LINES
        or size.methods > TOLERANCE * CLASS_METHODS
        or size.attributes > TOLERANCE * CLASS_ATTRIBUTES
    )
