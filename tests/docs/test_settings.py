"""docs/settings.md lists every key of the settings with its default and its meaning."""

from __future__ import annotations

from pathlib import Path

import yaml

from deploy.settings import Settings, load_settings
from deploy.settings_page import PAGE, settings_page


def test_the_page_is_the_generated_one() -> None:
    assert PAGE.read_text("utf-8") == settings_page(), "run python -m deploy.settings_page"


def test_every_key_has_a_meaning() -> None:
    assert "| None |" not in settings_page()


def test_the_defaults_on_the_page_can_be_parsed_back(tmp_path: Path) -> None:
    """Settings made from all defaults on the page equal the default settings."""
    rows = [line.split(" | ") for line in settings_page().splitlines() if line.startswith("| `")]
    given = {row[0].strip("| `"): yaml.safe_load(row[2].strip("`")) for row in rows if row[2] != "empty"}
    assert len(given) > 30
    settings = load_settings(tmp_path / "millrace.yaml", given)
    assert settings == Settings(folder=tmp_path)
