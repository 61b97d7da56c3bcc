"""docs/settings.md lists every key of the settings, as their source has them."""

from __future__ import annotations

from pathlib import Path

import yaml

from deploy.settings import Settings, load_settings
from deploy.settings_page import PAGE, settings_page


def test_the_page_is_the_generated_one() -> None:
    assert PAGE.read_text("utf-8") == settings_page(), "run python -m deploy.settings_page"


def test_every_key_has_a_meaning() -> None:
    assert "| None |" not in settings_page()


def test_the_defaults_of_the_page_are_read_back_as_they_are(tmp_path: Path) -> None:
    """Each default is written as people write it: the settings made of all of them are the default ones."""
    rows = [line.split(" | ") for line in settings_page().splitlines() if line.startswith("| `")]
    given = {row[0].strip("| `"): yaml.safe_load(row[2].strip("`")) for row in rows if row[2] != "empty"}
    assert len(given) > 30
    settings = load_settings(tmp_path / "millrace.yaml", given)
    assert settings == Settings(folder=tmp_path)
