"""docs/brokers.md lists the reason of every expected failure of the contract tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_expected_failure_is_documented() -> None:
    page = (ROOT / "docs/brokers.md").read_text("utf-8")
    found = [
        reason
        for path in (ROOT / "tests/contract").glob("test_*.py")
        for reason in re.findall(r'xfail\(\s*reason="([^"]+)"', path.read_text("utf-8"))
    ]
    assert found
    for reason in found:
        assert f"- {reason}\n" in page
    assert page.count("\n- a ") == len(found)
