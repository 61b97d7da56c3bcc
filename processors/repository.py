"""The model repository: Triton's folders, read as a whole and written a version at a time.

<root>/<model>/config.pbtxt
<root>/<model>/<version>/<file>
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from broker.channels import check_name
from broker.errors import Misconfigured
from processors.config import CONFIG_FILE, ModelConfig, parse_config, read_config

_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a model; another `fingerprint` means that its files or its config changed."""

    number: int
    folder: Path
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model with its versions that are complete and that its version policy serves, oldest first."""

    config: ModelConfig
    versions: tuple[Version, ...]
    withheld: tuple[int, ...] = ()  # complete versions that the version policy does not serve
    left_out: tuple[str, ...] = ()  # folders that are no version, or not a whole one, and why


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A repository at one moment: what can be served, and beside it what a person must mend, by model."""

    models: Mapping[str, Model]
    problems: Mapping[str, Misconfigured]

    def left_out(self) -> list[str]:
        """Return what stands among the versions and is not served, and which fields of a config change nothing."""
        return [said for model in self.models.values() for said in (*model.config.warnings, *model.left_out)]


def scan(root: Path) -> Snapshot:
    """Return what is in the repository. One broken model never hides the others.

    A version whose model file is missing is not there yet. A file that is still being copied in looks complete:
    act on a version once two scans agree on its fingerprint, or publish with `write_version`.
    Raises `Misconfigured` only for a root that cannot be listed.
    """
    try:
        folders = sorted([entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")])
    except OSError as exc:
        raise Misconfigured(f"the model repository {root} cannot be listed: {exc.strerror}") from exc
    models: dict[str, Model] = {}
    problems: dict[str, Misconfigured] = {}
    for folder in folders:
        found = _scan_model(folder)
        if isinstance(found, Misconfigured):
            problems[folder.name] = found
        else:
            models[folder.name] = found
    return Snapshot(models=models, problems=problems)


def write_version(
    root: Path, model: str, version: int, files: Mapping[str, bytes | Path], *, config: str | None = None
) -> Version:
    """Publish a version so that no reader ever sees part of it, and return it.

    `files` maps plain names to contents, or to files to copy. `config` is `config.pbtxt`: needed for the first
    version, it replaces the old one for all versions. Raises `Misconfigured` for a version that exists.
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
    return Version(number=version, folder=target, fingerprint=_fingerprint(target, source))


def _scan_model(folder: Path) -> Model | Misconfigured:
    try:
        config = read_config(folder)
        complete = {
            int(entry.name): entry
            for entry in folder.iterdir()
            if _VERSION.fullmatch(entry.name) and (entry / config.file).is_file()
        }
        chosen = config.versions.choose(complete)
        versions = [
            Version(
                number=number,
                folder=complete[number].absolute(),
                fingerprint=_fingerprint(complete[number], folder / CONFIG_FILE),
            )
            for number in chosen
        ]
        left_out = tuple(_left_out(folder, config.file))
    except Misconfigured as exc:
        return exc
    except OSError as exc:
        return Misconfigured(f"{folder} cannot be read: {exc}")
    withheld = tuple(sorted(set(complete) - set(chosen)))
    return Model(config=config, versions=tuple(versions), withheld=withheld, left_out=left_out)


def _left_out(folder: Path, file: str) -> Iterator[str]:
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.name.startswith((".", "_")):
            continue
        if not _VERSION.fullmatch(entry.name):
            yield f"{entry} is not served: a version's folder is a number from 1 to 999999999, such as 1"
        elif not (entry / file).is_file():
            yield f"{entry} is not served: there is no {file} in it"


def _fingerprint(folder: Path, config: Path) -> str:
    """Return a hash of names, sizes and times, not of contents: those can be gigabytes.

    What Python leaves beside a `model.py` is no change of it.
    """
    digest = blake2b(digest_size=12)
    for path in (config, *sorted(_files(folder))):
        stat = path.stat()
        digest.update(f"{path.relative_to(config.parent)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name == "__pycache__" or entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


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
    """Hand out a folder on the same disk that no scan sees."""
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
