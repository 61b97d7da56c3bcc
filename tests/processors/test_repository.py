"""The model repository is read as a whole and written one version at a time."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import Misconfigured
from processors.repository import FILES_LIMIT, RepositorySnapshot, scan, write_version
from tests.processors.repository_folder import CONFIG, add_versions


def versions(snapshot: RepositorySnapshot) -> dict[str, list[int]]:
    return {name: [version.number for version in model.versions] for name, model in snapshot.models.items()}


def fingerprint(root: Path) -> str:
    return scan(root).models["m"].versions[0].fingerprint


def test_models_and_versions_are_found(tmp_path: Path) -> None:
    add_versions(tmp_path, "b", 2, 10, 1)
    add_versions(tmp_path, "a", 1)
    snapshot = scan(tmp_path)
    assert versions(snapshot) == {"a": [1], "b": [1, 2, 10]}
    assert not snapshot.problems
    version = snapshot.models["b"].versions[2]
    assert version.folder == tmp_path / "b" / "10"
    assert version.folder.is_absolute()


def test_one_broken_model_does_not_hide_the_others(tmp_path: Path) -> None:
    add_versions(tmp_path, "good", 1)
    add_versions(tmp_path, "broken", 1, config="backend: 1")
    add_versions(tmp_path, "bad.name", 1)
    (tmp_path / "empty").mkdir()
    snapshot = scan(tmp_path)
    assert versions(snapshot) == {"good": [1]}
    assert set(snapshot.problems) == {"broken", "bad.name", "empty"}
    assert "config.pbtxt is missing" in str(snapshot.problems["empty"])


def test_folders_that_are_no_version_or_incomplete_are_left_out(tmp_path: Path) -> None:
    add_versions(tmp_path, "m", 1)
    for other in ("0", "01", "v2", "-1", "3", "1234567890"):
        (tmp_path / "m" / other).mkdir()
    (tmp_path / "m" / "4").write_text("a file")
    (tmp_path / "m" / "labels.txt").write_text("a file")
    (tmp_path / "README").write_text("a file")
    (tmp_path / ".hidden").mkdir()
    snapshot = scan(tmp_path)
    assert versions(snapshot) == {"m": [1]}
    assert not snapshot.problems


def test_folders_that_are_left_out_are_named(tmp_path: Path) -> None:
    add_versions(tmp_path, "m", 1)
    for other in ("3", "abc", "__pycache__", ".git"):
        (tmp_path / "m" / other).mkdir()
    empty, misnamed = scan(tmp_path).left_out()
    assert empty == f"{tmp_path}/m/3 is not served: there is no model.py in it"
    assert misnamed.startswith(f"{tmp_path}/m/abc is not served: a version's folder is a number")


def test_a_model_without_a_version_is_listed(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text(CONFIG)
    assert versions(scan(tmp_path)) == {"m": []}


def test_the_version_policy_is_honoured(tmp_path: Path) -> None:
    add_versions(tmp_path, "m", 1, 2, 3, config=CONFIG.replace("all {}", "latest { num_versions: 2 }"))
    assert versions(scan(tmp_path)) == {"m": [2, 3]}


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="nowhere cannot be listed"):
        scan(tmp_path / "nowhere")


def test_a_fingerprint_changes_with_files_and_config_only(tmp_path: Path) -> None:
    add_versions(tmp_path, "m", 1)
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


def test_a_scan_finds_a_published_version(tmp_path: Path) -> None:
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
    ("model", "version", "files", "config", "message"),
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
def test_a_refused_publication_changes_nothing(
    tmp_path: Path, model: str, version: int, files: dict[str, bytes | Path], config: str | None, message: str
) -> None:
    root = tmp_path / "models"
    write_version(root, "m", 1, {"model.py": b"one"}, config=CONFIG)
    before = scan(root)
    with pytest.raises(Misconfigured, match=message):
        write_version(root, model, version, files, config=config)
    assert scan(root) == before
    assert sorted(entry.name for entry in root.iterdir()) == ["m"]


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    files: dict[str, bytes | Path] = {"model.py": b"one", "weights": tmp_path / "missing"}
    with pytest.raises(FileNotFoundError):
        write_version(tmp_path / "models", "m", 1, files, config=CONFIG)
    assert list((tmp_path / "models").iterdir()) == []


def test_without_a_policy_only_the_newest_version_is_served(tmp_path: Path) -> None:
    add_versions(tmp_path, "m", 1, 2, 10, config=CONFIG.replace("version_policy { all {} }", ""))
    model = scan(tmp_path).models["m"]
    assert [version.number for version in model.versions] == [10]
    assert model.withheld == (1, 2)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a pipe": fifo,
    "a link to itself": link_to_itself,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a socket": listen,
    "a file without an end": lambda path: os.truncate(_created(path), 1 << 40),
    "nothing but nulls": lambda path: path.write_bytes(b"\0" * 1000),
    "no UTF-8": lambda path: path.write_bytes(b'name: "\xff"'),
    "braces without an end": lambda path: path.write_bytes(b"input {" * 20_000),
}


def _created(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["config.pbtxt", "1", "1/model.py", "1/other", "2", ".", "no\udcff text"])
def test_a_scan_survives_any_kind_of_file_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    """One model is hostile. The others are read, and the warnings can be encoded."""
    monkeypatch.chdir(tmp_path)  # a socket's path may have a hundred characters
    root = Path("models")
    add_versions(root, "good", 1)
    add_versions(root, "hostile", 1)
    place = root / "hostile" / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    HOSTILE[kind](place)
    snapshot = scan(root)
    assert versions(snapshot)["good"] == [1]
    texts = [*snapshot.left_out(), *map(str, snapshot.problems.values()), *snapshot.problems]
    json.dumps(texts, ensure_ascii=False).encode()
    if name == "config.pbtxt":
        assert set(snapshot.problems) == {"hostile"}
    if name == "1/other" and kind != "a folder":
        assert versions(snapshot)["hostile"] == [1]


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    add_versions(tmp_path, "m", 1)
    for name in ("a", "b", "c"):
        (tmp_path / "m/1" / name).symlink_to(".")
    (tmp_path / "m/1/up").symlink_to("../..")
    (tmp_path / "round").symlink_to(".")
    snapshot = scan(tmp_path)
    assert versions(snapshot) == {"m": [1]}
    assert set(snapshot.problems) == {"round"}


def test_a_version_that_holds_another_disk_is_left_out_and_the_others_are_served(
    tmp_path: Path,
) -> None:
    add_versions(tmp_path, "m", 1, 2)
    (tmp_path / "disk").mkdir()
    for number in range(FILES_LIMIT + 1):
        (tmp_path / "disk" / str(number)).touch()
    (tmp_path / "m/2/disk").symlink_to(tmp_path / "disk")
    snapshot = scan(tmp_path)
    assert versions(snapshot)["m"] == [1]
    assert snapshot.models["m"].unread == (2,)
    assert f"m/2 is not served: it holds more than {FILES_LIMIT} files" in " ".join(snapshot.left_out())


def test_thousands_of_folders_are_read(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / "many" / f"{number}x").mkdir(parents=True)
        (tmp_path / f"empty{number}").mkdir()
    add_versions(tmp_path, "many", 1)
    snapshot = scan(tmp_path)
    assert versions(snapshot) == {"many": [1]}
    assert (len(snapshot.problems), len(snapshot.left_out())) == (2000, 2000)
