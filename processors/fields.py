"""The fields of `config.pbtxt`: honoured ones, and ones that have no effect here. All others are refused.

Ignoring an unknown field that Triton obeys would silently change the behaviour of a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from broker.errors import Misconfigured

_HONOURED: Final = frozenset(
    (
        "name",
        "platform",
        "backend",
        "max_batch_size",
        "default_model_filename",
        "parameters",
        "version_policy",
        "version_policy.latest",
        "version_policy.all",
        "version_policy.specific",
        "version_policy.latest.num_versions",
        "version_policy.specific.versions",
        "input",
        "input.name",
        "input.data_type",
        "input.format",
        "input.dims",
        "output",
        "output.name",
        "output.data_type",
        "output.dims",
        "dynamic_batching",
        "dynamic_batching.preferred_batch_size",
        "dynamic_batching.max_queue_delay_microseconds",
        "dynamic_batching.default_queue_policy",
        "instance_group",
        "instance_group.name",
        "instance_group.kind",
        "instance_group.count",
        "instance_group.gpus",
        "model_transaction_policy",
    )
)
"""A message in this list may be empty, or hold those of its fields that are also in the list."""

_HARMLESS: Final = {
    "optimization": "it tunes Triton's own backends",
    "response_cache": "answers are computed each time",
    "metric_tags": "metrics have their own labels",
    "model_metrics": "metrics have their own buckets",
    "model_warmup": "a model is warmed with zeros, or by its own method warm",
    "output.label_filename": "classification is not served, clients get the tensor",
    "instance_group.rate_limiter": "replicas are not limited together",
    "instance_group.host_policy": "replicas run where the engine has room",
}

_REFUSED_PARAMETERS: Final = {"EXECUTION_ENV_PATH": "a model runs in Millrace's own Python environment"}
_HARMLESS_PARAMETERS: Final = {
    "pytorch": frozenset(
        (
            "DISABLE_OPTIMIZED_EXECUTION",
            "DISABLE_CUDNN",
            "ENABLE_CACHE_CLEANING",
            "ENABLE_JIT_EXECUTOR",
            "ENABLE_JIT_PROFILING",
            "ENABLE_NVFUSER",
            "ENABLE_TENSOR_FUSER",
            "ENABLE_WEIGHT_SHARING",
            "INFERENCE_MODE",
            "INTER_OP_THREAD_COUNT",
            "INTRA_OP_THREAD_COUNT",
        )
    )
}


def check_fields(message: Any, source: str) -> tuple[str, ...]:
    """Return warnings about fields without effect. Raises `Misconfigured` for a field that is not served."""
    return tuple(dict.fromkeys(_checked(message, "", source)))


def check_parameters(message: Any, runtime: str, source: str) -> tuple[str, ...]:
    """Return warnings about parameters without effect. Raises `Misconfigured` for one that is not served."""
    for key, why in _REFUSED_PARAMETERS.items():
        if key in message.parameters:
            raise Misconfigured(f"{source}: parameter {key} is not served ({why}): remove it, or use Triton")
    harmless = _HARMLESS_PARAMETERS.get(runtime, frozenset())
    return tuple(
        [f"{source}: parameter {key} has no effect here" for key in sorted(message.parameters) if key in harmless]
    )


def _checked(message: Any, path: str, where: str) -> Iterator[str]:
    for field, value in message.ListFields():
        inner = f"{path}.{field.name}" if path else field.name
        if inner in _HARMLESS:
            yield f"{where}: {field.name} has no effect here: {_HARMLESS[inner]}"
        elif inner not in _HONOURED:
            raise Misconfigured(f"{where}: {field.name} is not served: remove it, or serve this model with Triton")
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for one in [value] if hasattr(value, "ListFields") else value:
                yield from _checked(one, inner, _where(where, field.name, one, nested=bool(path)))


def _where(source: str, name: str, message: Any, *, nested: bool) -> str:
    if nested:
        return source
    return f"{source}: {name} {message.name!r}" if name in ("input", "output") else f"{source}: {name}"
