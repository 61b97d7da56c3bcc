"""The model repository, read as a whole and written a version at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.errors import Misconfigured
from processors.repository import Snapshot, scan, write_version

CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
version_policy { all {} }
"""


def add(root: Path, model: str, *versions: int, config: str = CONFIG) -> None:
    for version in versions:
        (root / model / str(version)).mkdir(parents=True)
        (root / model / str(version) / "model.py").write_text("code")
    (root / model / "config.pbtxt").write_text(config)


def versions(snapshot: Snapshot) -> dict[str, list[int]]:
    return {name: [version.number for version in model.versions] for name, model in snapshot.models.items()}


def fingerprint(root: Path) -> str:
    return scan(root).models["m"].versions[0].fingerprint


def test_models_and_versions_are_found(tmp_path: Path) -> None:
    add(tmp_path, "b", 2, 10, 1)
    add(tmp_path, "a", 1)
    snapshot = scan(tmp_path)
    assert versions(snapshot) == {"a": [1], "b": [1, 2, 10]}
    assert not snapshot.problems
    version = snapshot.models["b"].versions[2]
    assert version.folder == tmp_path / "b" / "10"
    assert version.folder.is_absolute()


def test_one_broken_model_does_not_hide_the_others(tmp_path: Path) -> None:
    add(tmp_path, "good", 1)
    add(tmp_path, "broken", 1, config="backend: 1")
    add(tmp_path, "bad.name", 1)
    (tmp_path / "empty").mkdir()
    snapshot = scan(tmp_path)
    assert versions(snapshot) == {"good": [1]}
    assert set(snapshot.problems) == {"broken", "bad.name", "empty"}
    assert "config.pbtxt is missing" in str(snapshot.problems["empty"])


def test_what_is_no_version_and_what_is_not_complete_is_left_out(tmp_path: Path) -> None:
    add(tmp_path, "m", 1)
    for other in ("0", "01", "v2", "-1", "3", "1234567890"):
        (tmp_path / "m" / other).mkdir()
    (tmp_path / "m" / "4").write_text("a file")
    (tmp_path / "m" / "labels.txt").write_text("a file")
    (tmp_path / "README").write_text("a file")
    (tmp_path / ".hidden").mkdir()
    snapshot = scan(tmp_path)
    assert versions(snapshot) == {"m": [1]}
    assert not snapshot.problems


def test_what_is_left_out_among_the_versions_is_said(tmp_path: Path) -> None:
    add(tmp_path, "m", 1)
    for other in ("3", "abc", "__pycache__", ".git"):
        (tmp_path / "m" / other).mkdir()
    empty, misnamed = scan(tmp_path).left_out()
    assert empty == f"{tmp_path}/m/3 is not served: there is no model.py in it"
    assert misnamed.startswith(f"{tmp_path}/m/abc is not served: a version's folder is a number")


def test_a_model_without_a_version_is_there_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text(CONFIG)
    assert versions(scan(tmp_path)) == {"m": []}


def test_the_version_policy_is_honoured(tmp_path: Path) -> None:
    add(tmp_path, "m", 1, 2, 3, config=CONFIG.replace("all {}", "latest { num_versions: 2 }"))
    assert versions(scan(tmp_path)) == {"m": [2, 3]}


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="nowhere cannot be listed"):
        scan(tmp_path / "nowhere")


def test_a_fingerprint_changes_with_files_and_config_only(tmp_path: Path) -> None:
    add(tmp_path, "m", 1)
    seen = [fingerprint(tmp_path)]
    (tmp_path / "m" / "1" / "__pycache__").mkdir()
    (tmp_path / "m" / "1" / "__pycache__" / "model.pyc").write_text("x")
    assert fingerprint(tmp_path) == seen[0]
    (tmp_path / "m" / "1" / "weights").mkdir()
    (tmp_path / "m" / "1" / "weights" / "w.bin").write_text("w")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "m" / "1" / "model.py").write_text("other code")
    seen.append(fingerprint(tmp_path))
    os.utime(tmp_path / "m" / "1" / "model.py", ns=(0, 1))
    seen.append(fingerprint(tmp_path))
    (tmp_path / "m" / "config.pbtxt").write_text(CONFIG + "# comment")
    seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == len(seen)


def test_a_published_version_is_what_a_scan_finds(tmp_path: Path) -> None:
    root = tmp_path / "new" / "models"
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"w")
    first = write_version(root, "m", 1, {"model.py": b"one", "weights.bin": weights}, config=CONFIG)
    second = write_version(root, "m", 2, {"model.py": b"two"})
    assert scan(root).models["m"].versions == (first, second)
    assert (root / "m" / "1" / "weights.bin").read_bytes() == b"w"
    assert sorted(entry.name for entry in root.iterdir()) == ["m"]
    assert sorted(entry.name for entry in (root / "m").iterdir()) == ["1", "2", "config.pbtxt"]


def test_publishing_may_replace_the_config(tmp_path: Path) -> None:
    write_version(tmp_path, "m", 1, {"model.py": b"one"}, config=CONFIG)
    write_version(tmp_path, "m", 2, {"model.py": b"two"}, config=CONFIG.replace("8", "16"))
    assert scan(tmp_path).models["m"].config.max_batch_size == 16


@pytest.mark.parametrize(
    ("model", "version", "files", "config", "says"),
    [
        ("m", 1, {"model.py": b"x"}, None, "exists, and a version never changes"),
        ("m", 0, {"model.py": b"x"}, None, "an integer from 1"),
        ("m", -1, {"model.py": b"x"}, None, "an integer from 1"),
        ("../m", 1, {"model.py": b"x"}, CONFIG, "a name is"),
        ("m", 2, {"../model.py": b"x"}, None, "not a plain file name"),
        ("m", 2, {".model.py": b"x"}, None, "not a plain file name"),
        ("m", 2, {"other.py": b"x"}, None, "model.py is missing among its files: other.py"),
        ("m", 2, {"model.py": b"x"}, "backend", "1:8"),
        ("new", 1, {"model.py": b"x"}, None, "config.pbtxt is missing"),
    ],
)
def test_what_cannot_be_published_changes_nothing(
    tmp_path: Path, model: str, version: int, files: dict[str, bytes | Path], config: str | None, says: str
) -> None:
    root = tmp_path / "models"
    write_version(root, "m", 1, {"model.py": b"one"}, config=CONFIG)
    before = scan(root)
    with pytest.raises(Misconfigured, match=says):
        write_version(root, model, version, files, config=config)
    assert scan(root) == before
    assert sorted(entry.name for entry in root.iterdir()) == ["m"]


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    files: dict[str, bytes | Path] = {"model.py": b"one", "weights": tmp_path / "missing"}
    with pytest.raises(FileNotFoundError):
        write_version(tmp_path / "models", "m", 1, files, config=CONFIG)
    assert list((tmp_path / "models").iterdir()) == []


def test_without_a_policy_the_newest_version_alone_is_served_and_the_others_are_known(tmp_path: Path) -> None:
    add(tmp_path, "m", 1, 2, 10, config=CONFIG.replace("version_policy { all {} }", ""))
    model = scan(tmp_path).models["m"]
    assert [version.number for version in model.versions] == [10]
    assert model.withheld == (1, 2)
