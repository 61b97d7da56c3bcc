"""The stricter YAML reader: words stay text, duplicate keys are errors, and errors quote no value."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import Misconfigured
from deploy.yaml_text import documents, read_yaml


def test_only_true_and_false_are_booleans_and_dates_are_text() -> None:
    assert documents("{on: [failed], off: no, yes: true, n: False}") == [
        {"on": ["failed"], "off": "no", "yes": True, "n": False}
    ]
    assert documents("experiment: 2026-11-20") == [{"experiment": "2026-11-20"}]


def test_empty_documents_are_left_out() -> None:
    assert documents("---\na: 1\n---\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]
    assert documents("") == []


def test_merged_keys_may_be_overridden() -> None:
    assert documents("base: &b {x: 1}\nc: {<<: *b, x: 2}") == [{"base": {"x": 1}, "c": {"x": 2}}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: hidden\na: hidden", "the key 'a' is there twice, line 2, column 1"),
        ("a: {b: {c: hidden, c: hidden}}", "the key 'c' is there twice"),
        ("a: [hidden", "line 1"),
        ("[" * 10_000, "it is nested too deeply"),
        ("a: " + "1" * 5000, "something in it cannot be read"),
        ("{[1]: hidden}", "unhashable key"),
        ("!!python/name:os.system", "could not determine a constructor"),
    ],
)
def test_an_error_quotes_no_value(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text, "utf-8")
    with pytest.raises(Misconfigured, match=r"a\.yaml: this is not YAML: ") as caught:
        read_yaml(tmp_path / "a.yaml")
    assert message in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_missing_file_is_an_error_with_its_name() -> None:
    with pytest.raises(Misconfigured, match=r"nothing\.yaml cannot be read: No such file"):
        read_yaml(Path("nothing.yaml"))
