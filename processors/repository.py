"""The model repository in Triton's layout: read as a whole, written one version at a time.

<root>/<model>/config.pbtxt
<root>/<model>/<version>/<file>
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from broker.channels import check_name
from broker.errors import Misconfigured
from broker.protocol.answers import clean
from processors.config import CONFIG_FILE, ModelConfig, parse_config, read_config

FILES_LIMIT: Final = 10_000  # of a version
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a model. Its `fingerprint` changes when its files or its config change."""

    number: int
    folder: Path
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryModel:
    """A model, with the complete versions that its version policy selects, oldest first."""

    config: ModelConfig
    versions: tuple[ModelVersion, ...]
    withheld: tuple[int, ...] = ()  # complete versions that the version policy does not select
    unread: tuple[int, ...] = ()  # versions that exist but cannot be read
    left_out: tuple[str, ...] = ()  # warnings about folders that are not a complete version


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySnapshot:
    """A repository at one moment: the models that can be served, and the problems of the others, by model."""

    models: Mapping[str, RepositoryModel]
    problems: Mapping[str, Misconfigured]

    def has(self, model: str, version: int) -> bool:
        """Return True if a version exists, even if it is unreadable, or if its whole model cannot be read."""
        found = self.models.get(model)
        if found is None:
            return model in self.problems
        return version in found.unread or any(one.number == version for one in found.versions)

    def withholds(self, model: str, version: int) -> bool:
        """Return True if a version exists, and the version policy of its model does not select it."""
        return model in self.models and version in self.models[model].withheld

    def left_out(self) -> list[str]:
        """Warnings about config fields without effect and folders that are not served."""
        return [text for model in self.models.values() for text in (*model.config.warnings, *model.left_out)]


def scan(root: Path) -> RepositorySnapshot:
    """Read the repository. A broken model becomes a problem and never hides the others.

    A version without its model file does not exist yet. A file that is still being copied looks complete: serve a
    version only once two scans agree on its fingerprint, or publish it with `write_version`. Raises `Misconfigured`
    only for a root that cannot be listed.
    """
    try:
        folders = sorted([entry for entry in root.iterdir() if _is_folder(entry) and not entry.name.startswith(".")])
    except OSError as exc:
        raise Misconfigured(f"the model repository {root} cannot be listed: {exc.strerror}") from exc
    models: dict[str, RepositoryModel] = {}
    problems: dict[str, Misconfigured] = {}
    for folder in folders:
        found = _scan_model(folder)
        if isinstance(found, Misconfigured):
            problems[clean(folder.name)] = found
        else:
            models[folder.name] = found
    return RepositorySnapshot(models=models, problems=problems)


def write_version(
    root: Path, model: str, version: int, files: Mapping[str, bytes | Path], *, config: str | None = None
) -> ModelVersion:
    """Publish a version atomically, and return it.

    `files` maps plain names to contents, or to files to copy. `config` is the text of `config.pbtxt`. The first version
    needs it; later it replaces the config of all versions. Raises `Misconfigured` for a version that exists.
    """
    check_name("model", model)
    _check_version(version)
    folder = root / model
    target = folder / str(version)
    source = folder / CONFIG_FILE
    if config is None:
        settings = read_config(folder)
    else:
        settings = parse_config(config, model=model, source=str(source), has=files.__contains__)
    _check_files(files, settings, target)
    with _staging(root) as staging:
        _fill(staging / str(version), files)
        if config is not None:
            _write(staging / CONFIG_FILE, config.encode())
        if not folder.exists():
            staging.chmod(0o755)
            _publish(staging, folder)
        else:
            if config is not None:
                (staging / CONFIG_FILE).replace(source)
            _publish(staging / str(version), target)
    return ModelVersion(number=version, folder=target, fingerprint=_fingerprint(target, source))


def _scan_model(folder: Path) -> RepositoryModel | Misconfigured:
    try:
        return _read_model(folder)
    except Misconfigured as exc:
        return exc
    except Exception as exc:  # noqa: BLE001 - one folder must not hide the other models
        return Misconfigured(f"{folder} cannot be read: {clean(str(exc))}")


def _read_model(folder: Path) -> RepositoryModel:
    config = read_config(folder)
    entries = sorted(folder.iterdir())
    complete = {
        int(entry.name): entry for entry in entries if _VERSION.fullmatch(entry.name) and _is_file(entry / config.file)
    }
    chosen = config.versions.choose(complete)
    left_out = list(_left_out(entries, config.file))
    versions = []
    for number in chosen:
        try:
            fingerprint = _fingerprint(complete[number], folder / CONFIG_FILE)
        except (OSError, Misconfigured) as exc:
            left_out.append(f"{complete[number]} is not served: {clean(str(exc))}")
        else:
            versions.append(ModelVersion(number=number, folder=complete[number].absolute(), fingerprint=fingerprint))
    withheld = tuple(sorted(set(complete) - set(chosen)))
    unread = tuple(sorted(set(chosen) - {version.number for version in versions}))
    return RepositoryModel(
        config=config, versions=tuple(versions), withheld=withheld, unread=unread, left_out=tuple(left_out)
    )


def _left_out(entries: Sequence[Path], file: str) -> Iterator[str]:
    for entry in entries:
        if entry.name.startswith((".", "_")) or not _is_folder(entry):
            continue
        if not _VERSION.fullmatch(entry.name):
            yield f"{_text(entry)} is not served: a version's folder is a number from 1 to 999999999, such as 1"
        elif not _is_file(entry / file):
            yield f"{entry} is not served: there is no {file} in it"


def _fingerprint(folder: Path, config: Path) -> str:
    """Return a hash of file names, sizes and times, not of contents, which can be gigabytes.

    Python's caches beside a `model.py` do not count. Raises `Misconfigured` for a folder with too many files.
    """
    digest = blake2b(digest_size=12)
    for path in (config, *sorted(_files(folder))):
        found = _stat(path)
        digest.update(os.fsencode(path.relative_to(config.parent)))
        digest.update(f"\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders; each folder is read once, even if links lead to it again."""
    entered, waiting, number = set[tuple[int, int]](), [folder], 0
    while waiting:
        inner = waiting.pop()
        found = inner.stat()
        if (found.st_dev, found.st_ino) in entered:
            continue
        entered.add((found.st_dev, found.st_ino))
        for entry in inner.iterdir():
            if entry.name == "__pycache__" or entry.name.startswith("."):
                continue
            number += 1
            if number > FILES_LIMIT:
                raise Misconfigured(f"it holds more than {FILES_LIMIT} files: is there a link to another folder in it?")
            if _is_folder(entry):
                waiting.append(entry)
            else:
                yield entry


def _stat(path: Path) -> os.stat_result:
    """Return the status of a file, or of the link itself if it leads nowhere."""
    try:
        return path.stat()
    except OSError:
        return path.lstat()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder without permission
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _text(path: Path) -> str:
    return clean(str(path))


def _check_version(version: int) -> None:
    if not _VERSION.fullmatch(str(version)):
        raise Misconfigured(f"version {version!r}: a version is an integer from 1 to 999999999")


def _check_files(files: Mapping[str, bytes | Path], config: ModelConfig, target: Path) -> None:
    if target.exists():
        raise Misconfigured(f"{target} exists, and a version never changes: publish the next number")
    for name in files:
        if Path(name).name != name or name.startswith("."):
            raise Misconfigured(f"{target}: {name!r} is not a plain file name")
    if config.file not in files:
        raise Misconfigured(f"{target}: {config.file} is missing among its files: {', '.join(files) or 'none'}")


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """Yield a temporary folder on the same disk, which scans ignore."""
    root.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".publish-", dir=root))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    folder.mkdir()
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
            _sync(folder / name)
        else:
            _write(folder / name, content)
    _sync(folder)


def _publish(staged: Path, target: Path) -> None:
    try:
        staged.rename(target)
    except OSError as exc:
        raise Misconfigured(f"{target} cannot be published: {exc.strerror} (has another writer published it?)") from exc
    _sync(target.parent)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
