"""docs/brokers.md tells every reason for which a broker is excused from the contract."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_expected_failure_is_told() -> None:
    told = (ROOT / "docs/brokers.md").read_text("utf-8")
    found = [
        reason
        for path in (ROOT / "tests/contract").glob("test_*.py")
        for reason in re.findall(r'xfail\(\s*reason="([^"]+)"', path.read_text("utf-8"))
    ]
    assert found
    for reason in found:
        assert f"- {reason}\n" in told
    assert told.count("\n- a ") == len(found)
