"""The settings of an installation: `millrace.yaml`, read once. The only reader of the environment.

The first of these that sets a value wins: a flag, `MILLRACE__SECTION__KEY` in the environment, the file, the default.
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
    """The most that a queue holds before it refuses more. Zero means no limit."""

    requests: int = Field(default=100_000, ge=0, description="requests in one queue")
    size: Size = Field(default=2 << 30, description="bytes in one queue")


class BrokerSettings(StrictModel):
    """Where messages go. Without a URL it is the embedded broker, which needs nothing installed."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="`amqp://`, `amqps://`, `kafka://`, `kafkas://` or `sqlite:///path`; "
        "empty: the embedded broker in `data`",
    )
    limits: QueueLimits = QueueLimits()


class Secrets(StrictModel):
    """Keys. Give them by a file (`assignment_file`) or a variable (`${NAME}`)."""

    assignment: SecretStr = Field(
        default=SecretStr(""),
        description="the key with which arms are drawn, the same on all machines; empty: one is made in `data`. "
        "Required when the gateway listens beyond loopback",
    )


class Repository(StrictModel):
    """Where models are."""

    url: str = Field(default="models", description="a folder in Triton's layout")
    poll: Duration = Field(default=2.0, description="time between two looks for new versions")
    doubt: Duration = Field(
        default=60.0,
        description="how long versions are still served after more than half of all vanished at once: "
        "a volume may be unmounted",
    )


class Replicas(StrictModel):
    """Replicas of a model version."""

    min: int = Field(default=1, ge=1, le=64, description="replicas of each model version")


class Processors(StrictModel):
    """How models run."""

    engine: Literal["process", "ray"] = Field(
        default="process", description="`process`: children of this machine; `ray`: Ray Serve, at `RAY_ADDRESS` if set"
    )
    replicas: Replicas = Replicas()
    device: str = Field(default="auto", description="`cpu`, `cuda`, `cuda:1`; `auto`: a GPU where there is one")
    gpus: float = Field(default=0.0, ge=0.0, description="GPUs that Ray reserves for each replica; fractions share one")
    threads: int = Field(default=1, ge=1, le=1024, description="threads of torch and BLAS in each replica")
    grace: Duration = Field(default=20.0, description="time in which a replica that stops may finish its batches")


class Gateway(StrictModel):
    """The HTTP server; the ports are Triton's. [gateway.md](gateway.md) explains the limits."""

    host: Host = Field(default="127.0.0.1", description="address to listen at; `0.0.0.0` or `::` is all of them")
    http_port: Port = Field(default=8000, description="port to listen at")
    body_limit: Size = Field(default=8 * 1024 * 1024 - 64 * 1024, description="bytes of one request body, decompressed")
    pending_limit: int = Field(default=10_000, ge=1, description="requests that wait for their answers; beyond it 429")
    results_ttl: Duration = Field(default=3600.0, description="how long a stored answer is kept")
    results_limit: Size = Field(default=2 << 30, description="bytes of the store of asynchronous requests and answers")
    strict_readiness: bool = Field(
        default=False, description="`/v2/health/ready` fails while any model or arm is broken, as in Triton"
    )
    head_limit: Annotated[Size, Field(ge=1024)] = Field(default=64 * 1024, description="bytes of a request's headers")
    target_limit: Annotated[Size, Field(ge=256)] = Field(default=8 * 1024, description="bytes of a request's target")
    head_timeout: Duration = Field(default=15.0, description="time for the headers of a request to arrive")
    body_timeout: Duration = Field(default=60.0, description="time for a body to arrive, and for an answer to be read")
    idle_timeout: Duration = Field(default=75.0, description="time between two requests of a connection")
    arriving_limit: Size = Field(default=64 << 20, description="bytes of all bodies that have not arrived completely")
    bodies_limit: Size = Field(default=512 << 20, description="bytes of all bodies whose requests wait for answers")
    connections_limit: int = Field(
        default=0, ge=0, description="connections at once; 0: as many as the process may have descriptors"
    )
    compress_above: Size = Field(default=4096, description="bytes of the smallest answer that is compressed")
    grace: Duration = Field(default=15.0, description="time in which a gateway that stops waits for open requests")


class Learner(StrictModel):
    """How policies learn."""

    tick: Annotated[Duration, Field(ge=0.01, le=60.0)] = Field(
        default=1.0, description="real time that one second of the event logs' clock lasts; shorter for shows and tests"
    )


class Metrics(StrictModel):
    """Where Prometheus scrapes the installation: `/metrics` of the monitors."""

    host: Host = Field(default="127.0.0.1", description="address to listen at")
    port: Port = Field(default=8002, description="port to listen at; 0: any free one")


class Prometheus(StrictModel):
    """The monitor that turns the event logs into time series."""

    max_series: int = Field(
        default=2000, ge=1, description="time series; observations beyond them are dropped and counted"
    )


class Monitors(StrictModel):
    """The readers of the event logs."""

    prometheus: Prometheus = Prometheus()


class Settings(StrictModel):
    """The file `millrace.yaml`. Paths are relative to it."""

    version: Literal[1] = Field(default=1, description="version of this format")
    environment: str = Field(default="dev", description="a name for people, such as `prod`")
    prefix: str = Field(default="millrace.", description="beginning of every channel's name; one for each installation")
    data: str = Field(default="data", description="folder for state: embedded broker, stored answers, checkpoints")
    broker: BrokerSettings = BrokerSettings()
    secrets: Secrets = Secrets()
    repository: Repository = Repository()
    processors: Processors = Processors()
    gateway: Gateway = Gateway()
    learner: Learner = Learner()
    metrics: Metrics = Metrics()
    monitors: Monitors = Monitors()
    endpoints: str = Field(default="endpoints/*.yaml", description="files that declare endpoints; they are watched")
    folder: Path = Field(default=Path(), exclude=True)  # the file's own, set when it is read

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
    """Return Millrace's variables in this process's environment and flags, for processes that do not inherit it."""
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
