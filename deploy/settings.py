"""The settings of an installation: `millrace.yaml`, read once. The only reader of the environment.

What wins, from first to last: a flag, `MILLRACE__SECTION__KEY` in the environment, the file, the default.
In the file `${NAME}` stands for an environment variable, and `key_file: path` gives `key` from a file.
"""

from __future__ import annotations

import os
import re
import secrets as random_secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import BeforeValidator, Field, SecretStr

from broker.channels import Channels
from broker.errors import Misconfigured
from broker.support.private_files import make_private_folder, open_private
from broker.support.strict import Duration, StrictModel, read_model
from deploy.hosts import bare, is_loopback
from deploy.yaml_text import read_yaml

FILE = "millrace.yaml"
PREFIX = "MILLRACE__"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB)?")
_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def size(value: Any) -> int:
    """Read a number of bytes such as `2GiB`."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size: write a number with B, KiB, MiB or GiB, such as 2GiB")
    return int(float(match[1]) * _BYTES[match[2]])


Size = Annotated[int, BeforeValidator(size)]
Port = Annotated[int, Field(ge=0, le=65535)]
Host = Annotated[str, BeforeValidator(bare)]


class QueueLimits(StrictModel):
    """How much a queue may hold before it refuses."""

    requests: int = Field(default=100_000, ge=0)
    size: Size = 2 << 30


class BrokerSettings(StrictModel):
    """Where messages go. The embedded broker needs nothing installed."""

    url: SecretStr = SecretStr("")
    limits: QueueLimits = QueueLimits()


class Secrets(StrictModel):
    """Keys. `assignment` is what decisions are drawn with: mandatory when the gateway leaves loopback."""

    assignment: SecretStr = SecretStr("")


class Repository(StrictModel):
    """Where models are. What vanishes from there all at once is served for `doubt`: a volume may be unmounted."""

    url: str = "models"
    poll: Duration = 2.0
    doubt: Duration = 60.0


class Replicas(StrictModel):
    """How many replicas a model version has."""

    min: int = Field(default=1, ge=1, le=64)


class Processors(StrictModel):
    """How models run."""

    engine: Literal["process", "ray"] = "process"
    replicas: Replicas = Replicas()
    device: str = "auto"
    gpus: float = Field(default=0.0, ge=0.0)
    threads: int = Field(default=1, ge=1, le=1024)
    grace: Duration = 20.0


class Gateway(StrictModel):
    """Where HTTP is served; the ports are Triton's. `docs/gateway.md` explains the limits.

    `connections_limit: 0` is as many as the descriptors of the process allow.
    """

    host: Host = "127.0.0.1"
    http_port: Port = 8000
    body_limit: Size = 8 * 1024 * 1024 - 64 * 1024
    pending_limit: int = Field(default=10_000, ge=1)
    results_ttl: Duration = 3600.0
    results_limit: Size = 2 << 30
    strict_readiness: bool = False
    head_limit: Annotated[Size, Field(ge=1024)] = 64 * 1024
    target_limit: Annotated[Size, Field(ge=256)] = 8 * 1024
    head_timeout: Duration = 15.0
    body_timeout: Duration = 60.0
    idle_timeout: Duration = 75.0
    arriving_limit: Size = 64 << 20
    bodies_limit: Size = 512 << 20
    connections_limit: int = Field(default=0, ge=0)
    compress_above: Size = 4096
    grace: Duration = 15.0


class Learner(StrictModel):
    """How policies learn. `tick` is how long a second of the event logs' clock takes: shorter to show and to test."""

    tick: Annotated[Duration, Field(ge=0.01, le=60.0)] = 1.0


class Metrics(StrictModel):
    """Where Prometheus finds the installation: `/metrics` of the monitors."""

    host: Host = "127.0.0.1"
    port: Port = 8002


class Prometheus(StrictModel):
    """The monitor that turns the event logs into series."""

    max_series: int = Field(default=2000, ge=1)


class Monitors(StrictModel):
    """Who reads the event logs."""

    prometheus: Prometheus = Prometheus()


class Settings(StrictModel):
    """Everything in `millrace.yaml`. Paths are relative to the file."""

    version: Literal[1] = 1
    environment: str = "dev"
    prefix: str = "millrace."
    data: str = "data"
    broker: BrokerSettings = BrokerSettings()
    secrets: Secrets = Secrets()
    repository: Repository = Repository()
    processors: Processors = Processors()
    gateway: Gateway = Gateway()
    learner: Learner = Learner()
    metrics: Metrics = Metrics()
    monitors: Monitors = Monitors()
    endpoints: str = "endpoints/*.yaml"
    folder: Path = Path()

    @property
    def data_folder(self) -> Path:
        """Where processes keep their state."""
        return self.folder / self.data

    @property
    def repository_folder(self) -> Path:
        """Where models are."""
        return self.folder / self.repository.url.removeprefix("file://")

    @property
    def broker_url(self) -> str:
        """The broker's address; without one, the embedded broker in the data folder."""
        url = self.broker.url.get_secret_value()
        if not url:
            return f"sqlite:///{self.data_folder / 'broker.db'}"
        path = url.removeprefix("sqlite:///")
        return f"sqlite:///{self.folder / path}" if path != url else url

    @property
    def embedded_file(self) -> Path | None:
        """The file of the embedded broker; None where the broker is a server."""
        path = self.broker_url.removeprefix("sqlite:///")
        return None if path == self.broker_url else Path(unquote(path))

    @property
    def channels(self) -> Channels:
        """The names of this installation's channels."""
        return Channels(self.prefix)


def load_settings(path: Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings at `path`; a file that is not there leaves the defaults. Raises Misconfigured.

    `overrides` are flags, by dotted key: `{"broker.url": "amqp://localhost"}`.
    """
    data = _read(path) if path.exists() else {}
    for dotted, value in {**_from_environment(), **(overrides or {})}.items():
        _put(data, dotted.split("."), value)
    settings = read_model(Settings, {**data, "folder": str(path.resolve().parent)}, source=path.name)
    _ = settings.channels
    _check_key(settings)
    return settings


def assignment_key(settings: Settings) -> bytes:
    """Return the secret that decisions are drawn with; on loopback one is made once and kept in the data folder."""
    given = settings.secrets.assignment.get_secret_value()
    if given:
        return given.encode()
    path = settings.data_folder / "assignment.key"
    try:
        make_private_folder(path.parent)
        with os.fdopen(open_private(path, os.O_EXCL | os.O_WRONLY), "w") as file:
            file.write(random_secrets.token_hex(32))
    except FileExistsError:
        pass
    return path.read_text().encode()


def child_environment(overrides: Mapping[str, str], native: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with flags and variables for native libraries, for the processes it starts."""
    return {**os.environ, **native, **_as_variables(overrides)}


def own_environment(overrides: Mapping[str, str], native: Mapping[str, str]) -> dict[str, str]:
    """Return what is ours in this process's environment and flags, for processes that do not inherit it."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    return {**ours, **native, **_as_variables(overrides)}


def start_again_with(native: Mapping[str, str]) -> None:
    """Start this program again with variables for native libraries, unless it was started with them."""
    if any(os.environ.get(name) != value for name, value in native.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **native})  # noqa: S606 - the same command line


def _as_variables(overrides: Mapping[str, str]) -> dict[str, str]:
    return {PREFIX + key.replace(".", "__").upper(): value for key, value in overrides.items()}


def _read(path: Path) -> dict[str, Any]:
    found = read_yaml(path)
    if not found:
        return {}
    data = found[0] if len(found) == 1 else found
    if not isinstance(data, dict):
        raise Misconfigured(f"{path}: a mapping of keys is expected, found {type(data).__name__}")
    return dict(_resolved(data, path.name, path.parent))


def _resolved(value: Any, where: str, folder: Path) -> Any:
    """Put in environment variables and the contents of `…_file` keys."""
    if isinstance(value, dict):
        resolved = {}
        for key, inner in value.items():
            if isinstance(key, str) and key.endswith("_file"):
                if key.removesuffix("_file") in value:
                    raise Misconfigured(f"{where}: give {key.removesuffix('_file')} or {key}, not both")
                resolved[key.removesuffix("_file")] = _from_file(inner, f"{where}: {key}", folder)
            else:
                resolved[key] = _resolved(inner, f"{where}: {key}", folder)
        return resolved
    if isinstance(value, list):
        return [_resolved(inner, where, folder) for inner in value]
    return _VARIABLE.sub(lambda match: _variable(match[1], where), value) if isinstance(value, str) else value


def _from_file(value: Any, where: str, folder: Path) -> str:
    try:
        return (folder / str(value)).read_text("utf-8").strip()
    except OSError as exc:
        raise Misconfigured(f"{where}: {value} cannot be read: {exc.strerror}") from exc


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise Misconfigured(f"{where}: the environment has no variable {name}")
    return os.environ[name]


def _from_environment() -> dict[str, str]:
    return {
        name.removeprefix(PREFIX).lower().replace("__", "."): value
        for name, value in os.environ.items()
        if name.startswith(PREFIX)
    }


def _put(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = data.get(key)
        data[key] = dict(inner) if isinstance(inner, dict) else {}
        data = data[key]
    data[keys[-1]] = value


def _check_key(settings: Settings) -> None:
    host = settings.gateway.host
    if not is_loopback(host) and not settings.secrets.assignment.get_secret_value():
        raise Misconfigured(
            f"gateway.host {host} is not loopback: set secrets.assignment, else clients choose arms by choosing ids"
        )
