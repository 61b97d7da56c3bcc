"""The user's folder, next to `millrace.yaml`, is never on the import path of our processes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.deploy.running import BIN, Up, environment, millrace, wait_until_gone

SHADOWS = ("gateway", "queue", "numpy", "tritonclient", "broker", "deploy", "processors", "asyncio", "ray", "torch")
SHADOW = """\
from pathlib import Path

with Path(__file__).with_name("shadows.txt").open("a") as file:
    file.write(__name__ + "\\n")
raise SystemExit("code of the user's folder runs in a process that is not the user's")
"""
REQUEST = '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A project with files that have the names of our modules, of the standard library and of other libraries."""
    millrace("init", "shop", folder=tmp_path)
    for name in SHADOWS:
        (tmp_path / "shop" / f"{name}.py").write_text(SHADOW, "utf-8")
    return tmp_path / "shop"


@pytest.mark.parametrize("engine", ["process", "ray"])
def test_files_beside_the_settings_shadow_no_module_of_any_process(shop: Path, engine: str) -> None:
    up = Up(shop, "--engine", engine)
    family = []
    try:
        up.wait_for("ready   http")
        family = up.family()
        command = [str(BIN / "millrace"), "predict", "hello"]
        done = subprocess.run(
            command, cwd=shop, env=up.env, input=REQUEST, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["outputs"][0]["data"] == [3.0]
    finally:
        up.stop()
        wait_until_gone(family, 20.0)
    assert not (shop / "shadows.txt").exists()


def test_the_console_script_imports_nothing_from_the_users_folder(shop: Path) -> None:
    done = subprocess.run(
        [str(BIN / "millrace"), "check"],
        cwd=shop,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (shop / "shadows.txt").exists()
