"""A replica that dies while its model's config is wrong comes back with the config that worked last."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import Misconfigured
from processors.kept_config import config_to_load, keep_config
from tests.processors.repository_folder import CONFIG, add_versions


@pytest.fixture
def model(tmp_path: Path) -> Path:
    add_versions(
        tmp_path / "models", "m", 1, config=CONFIG.replace('backend: "python"', "")
    )  # the backend follows from model.py
    return tmp_path / "models/m"


def test_a_wrong_config_is_replaced_by_the_one_that_worked(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worked = config_to_load(model, tmp_path / "kept")
    keep_config(model, tmp_path / "kept")
    for wrong in ("nonsense: 1", None):
        (model / "config.pbtxt").unlink(missing_ok=True)
        if wrong is not None:
            (model / "config.pbtxt").write_text(wrong)
        keep_config(model, tmp_path / "kept")  # keeps nothing that is wrong
        assert config_to_load(model, tmp_path / "kept") == worked
    assert "nonsense" in caplog.text
    assert caplog.text.count("the model is loaded with the config that worked last") == 2


def test_a_wrong_config_of_a_model_that_never_worked_is_an_error(model: Path, tmp_path: Path) -> None:
    (model / "config.pbtxt").write_text("nonsense: 1")
    with pytest.raises(Misconfigured, match=r"m/config\.pbtxt: 1:1"):
        config_to_load(model, tmp_path / "kept")


def test_a_folder_that_cannot_be_written_keeps_no_config_and_raises_nothing(model: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    keep_config(model, tmp_path / "kept")
    assert config_to_load(model, tmp_path / "kept").name == "m"
