"""Reads a model's `config.pbtxt`, in Triton's format."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from broker.channels import check_name
from broker.errors import Misconfigured
from broker.tensor.datatypes import DTYPES
from broker.tensor.inference import TensorSpec
from processors.fields import check_fields, check_parameters
from processors.runtimes.table import backend_name, backend_of_file, find_runtime, runtime_names, usual_files

CONFIG_FILE: Final = "config.pbtxt"
_PB2: Final = "tritonclient.grpc.model_config_pb2"

_DATATYPES: Final[Mapping[str, str]] = {"TYPE_STRING" if name == "BYTES" else f"TYPE_{name}": name for name in DTYPES}
_LIMIT_BYTES: Final = 1 << 20
_PARSED: Final = 4096  # configs to keep parsed: a repository is read every few seconds, mostly to parse them


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPolicy:
    """Selects the versions to serve: the newest `latest` ones, those in `only`, or all (`latest` 0)."""

    latest: int = 1
    only: frozenset[int] | None = None

    def choose(self, versions: Iterable[int]) -> tuple[int, ...]:
        """Return the selected versions, oldest first."""
        found = sorted(versions)
        if self.only is not None:
            return tuple([version for version in found if version in self.only])
        return tuple(found[-self.latest :])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The inputs, outputs and resources of a model.

    `max_batch_size` 0 means no batch dimension; otherwise every shape begins with the batch, as -1.
    `preferred_batch_sizes` and `max_queue_delay_us` belong to dynamic batching. With `instance_count` 0 or an empty
    `device` the installation decides. `json` is the whole config under Triton's field names. `warnings` name the fields
    that have no effect here.
    """

    name: str
    runtime: str
    file: str
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preferred_batch_sizes: tuple[int, ...]
    max_queue_delay_us: int
    instance_count: int
    device: str
    versions: VersionPolicy
    parameters: Mapping[str, str]
    json: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


def read_config(folder: Path, path: Path | None = None) -> ModelConfig:
    """Return the config of the model in `folder`, from `config.pbtxt` or from `path`.

    Raises `Misconfigured`, with the line of a wrong text.
    """
    path = folder / CONFIG_FILE if path is None else path
    try:
        text = _read(path).decode()
    except FileNotFoundError as exc:
        raise Misconfigured(
            f"{path} is missing: it must declare backend, max_batch_size, input and output, in Triton's format"
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"{path} cannot be read: {exc}") from exc
    return parse_config(text, model=folder.name, source=str(path), has=lambda name: _has(folder, name))


def _read(path: Path) -> bytes:
    """Return the bytes of a regular file. Opening a pipe in the usual way would block for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Misconfigured(f"{path} is not a regular file")
        if found.st_size > _LIMIT_BYTES:
            raise Misconfigured(f"{path} has {found.st_size} bytes: a config has at most {_LIMIT_BYTES}")
        return file.read(_LIMIT_BYTES)


def _has(folder: Path, name: str) -> bool:
    """Return True if any version in the folder of a model has a file of this name."""
    return any((entry / name).exists() for entry in folder.iterdir() if entry.name.isdecimal())


def parse_config(text: str, *, model: str, source: str, has: Callable[[str], bool] = lambda _: False) -> ModelConfig:
    """Return the config in `text` for a model in a folder called `model`; errors name the `source`.

    `has(file)` is True if a version holds the file; the backend follows from that if the config names none.
    """
    message = _parse(text, source)
    check_name(f"{source}: model", model)
    if message.name not in ("", model):
        raise Misconfigured(f"{source}: name is {message.name!r}, but the folder is {model!r}: they must be equal")
    warnings = check_fields(message, source)
    if message.max_batch_size < 0:
        raise Misconfigured(f"{source}: max_batch_size is {message.max_batch_size}, and must be at least 0")
    runtime = _runtime(message, source, has)
    batched = message.max_batch_size > 0
    batching = message.dynamic_batching
    return ModelConfig(
        name=model,
        runtime=runtime,
        file=_file(message, runtime, source),
        max_batch_size=message.max_batch_size,
        inputs=_specs("input", message.input, source, batched=batched),
        outputs=_specs("output", message.output, source, batched=batched),
        preferred_batch_sizes=_preferred(batching.preferred_batch_size, message.max_batch_size, source),
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        instance_count=_instances(message),
        device=_device(message, source),
        versions=_version_policy(message, source),
        parameters={key: message.parameters[key].string_value for key in sorted(message.parameters)},
        json={"name": model, "backend": runtime, "max_batch_size": 0, **_plain(message)},
        warnings=warnings + check_parameters(message, runtime, source),
    )


@cache
def _messages() -> Any:
    """Import Triton's generated messages without its client, which costs a second and 58 MB."""
    if _PB2 in sys.modules:
        return sys.modules[_PB2]
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        raise Misconfigured(f"{CONFIG_FILE} is read with tritonclient's messages: install millrace[triton]")
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("processors._model_config_pb2", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise Misconfigured(f"{path} is missing: install millrace[triton] again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=_PARSED)
def _parse(text: str, source: str) -> Any:
    from google.protobuf import text_format  # a hundred modules that only a reader of configs needs

    try:
        return text_format.Parse(text, _messages().ModelConfig())
    except text_format.ParseError as exc:
        raise Misconfigured(f"{source}: {exc} (line:column)") from exc
    except (ValueError, RecursionError) as exc:
        raise Misconfigured(f"{source} is not text in Triton's format: {exc}") from exc


def _runtime(message: Any, source: str, has: Callable[[str], bool]) -> str:
    platform = backend_name(message.platform)
    if message.backend and platform and message.backend != platform:
        raise Misconfigured(f"{source}: backend is {message.backend!r} and platform {message.platform!r}: remove one")
    backend, file = str(message.backend or platform), ""
    if not backend and (file := _usual_file(message.default_model_filename, has)):
        backend = backend_of_file(file)
    if find_runtime(backend) is not None:
        return backend
    problem = f"backend is {backend!r}" if backend else "backend is missing"
    by_file = f" by the file {file}" if file else ""
    raise Misconfigured(f"{source}: {problem}{by_file}, and must be one of {', '.join(runtime_names())}")


def _usual_file(configured: str, has: Callable[[str], bool]) -> str:
    """The usual file name from which the backend follows: by the configured name's suffix, or a file that exists."""
    if configured:
        return next((usual for usual in usual_files() if Path(usual).suffix == Path(configured).suffix), "")
    return next((usual for usual in usual_files() if has(usual)), "")


def _file(message: Any, runtime: str, source: str) -> str:
    entry = find_runtime(runtime)
    name = message.default_model_filename or (entry.file if entry else "")
    if Path(name).name != name:
        raise Misconfigured(f"{source}: default_model_filename is {name!r}, and must be a plain file name")
    return str(name)


def _specs(kind: str, entries: Any, source: str, *, batched: bool) -> tuple[TensorSpec, ...]:
    specs = tuple([_spec(kind, entry, source, batched=batched) for entry in entries])
    names = [spec.name for spec in specs]
    if not specs:
        raise Misconfigured(f"{source}: no {kind} is declared, and a model has at least one")
    if len(set(names)) < len(names):
        raise Misconfigured(f"{source}: the {kind}s {', '.join(names)} do not all have different names")
    return specs


def _spec(kind: str, entry: Any, source: str, *, batched: bool) -> TensorSpec:
    where = f"{source}: {kind} {entry.name!r}"
    if not entry.name:
        raise Misconfigured(f"{source}: an {kind} has no name")
    written = _messages().DataType.Name(entry.data_type)
    datatype = _DATATYPES.get(written)
    if datatype is None:
        raise Misconfigured(f"{where}: data_type is {written}, and must be one of {', '.join(_DATATYPES)}")
    if any(dimension != -1 and dimension < 1 for dimension in entry.dims):
        raise Misconfigured(f"{where}: dims are {list(entry.dims)}, and each must be at least 1, or -1 for any size")
    return TensorSpec(entry.name, datatype, (-1, *entry.dims) if batched else tuple(entry.dims))


def _preferred(sizes: Iterable[int], max_batch_size: int, source: str) -> tuple[int, ...]:
    preferred = tuple(sorted(set(sizes)))
    if preferred and not 1 <= preferred[0] <= preferred[-1] <= max_batch_size:
        raise Misconfigured(
            f"{source}: preferred_batch_size is {list(preferred)}, and each must be from 1 to "
            f"max_batch_size ({max_batch_size})"
        )
    return preferred


def _instances(message: Any) -> int:
    """The configured number of replicas; 0 if no group has a count."""
    if not any(group.count for group in message.instance_group):
        return 0
    return sum([group.count or 1 for group in message.instance_group])


def _device(message: Any, source: str) -> str:
    """The device of the instance groups; empty if they name none."""
    devices = {_device_of(group, source) for group in message.instance_group}
    if len(devices) > 1:
        raise Misconfigured(f"{source}: instance_group asks for several kinds or GPUs, and a model has one of them")
    return devices.pop() if devices else ""


def _device_of(group: Any, source: str) -> str:
    if len(group.gpus) > 1:
        raise Misconfigured(f"{source}: instance_group: gpus are {list(group.gpus)}, and a model has one of them")
    kind = group.Kind.Name(group.kind)
    if group.gpus and kind in ("KIND_GPU", "KIND_AUTO"):
        return f"cuda:{group.gpus[0]}"
    return {"KIND_GPU": "cuda", "KIND_CPU": "cpu"}.get(kind, "")


def _version_policy(message: Any, source: str) -> VersionPolicy:
    policy = message.version_policy
    if policy.HasField("latest"):
        return VersionPolicy(latest=policy.latest.num_versions or 1)
    if policy.HasField("all"):
        return VersionPolicy(latest=0)
    if not policy.HasField("specific"):
        return VersionPolicy()
    invalid = [version for version in policy.specific.versions if version < 1]
    if invalid or not policy.specific.versions:
        raise Misconfigured(f"{source}: version_policy is specific: it must list versions, integers of at least 1")
    return VersionPolicy(only=frozenset(policy.specific.versions))


def _plain(message: Any) -> dict[str, Any]:
    """Return the set fields of a message as JSON values; protobuf's own writer turns 64-bit integers into strings."""
    return {field.name: _plain_field(field, value) for field, value in message.ListFields()}


def _plain_field(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _plain_value(inner, value[key]) for key in sorted(value)}
    if isinstance(value, str | bytes | int | float) or hasattr(value, "ListFields"):
        return _plain_value(field, value)
    return [_plain_value(field, item) for item in value]


def _plain_value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode("latin-1") if isinstance(value, bytes) else value
