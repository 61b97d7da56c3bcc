"""TorchScript models, on a CPU or a GPU. Pickles are not loaded: loading a file must not run code in it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any, Final

import torch

from broker.errors import Failed, Misconfigured
from broker.tensor.datatypes import Array
from broker.tensor.inference import TensorSpec
from processors.config import ModelConfig
from processors.runtimes.base import Runtime, described, model_file

_INDEXED: Final = re.compile(r".*__(\d+)")


class TorchRuntime(Runtime):
    """One TorchScript module.

    Its arguments are the inputs of the config: by name if all names match, else by the index in names like `INPUT__0`,
    else in the order of the config. It returns a tensor, a tuple or list in that same order, or a dict by name.
    """

    def __init__(self, config: ModelConfig, module: Any, device: torch.device, threads: int) -> None:
        super().__init__(config)
        self._threads = threads
        self._limited_thread = 0  # the thread that has its thread limit
        self._module = module
        self._inference = torch.inference_mode()
        self._device = device
        self._keywords, self._inputs = _arguments(config, module)
        self._outputs = _ordered(config.outputs)

    @classmethod
    def load(cls, folder: Path, config: ModelConfig, *, device: str, threads: int) -> TorchRuntime:
        path = model_file(folder, config)
        strings = [spec.name for spec in (*config.inputs, *config.outputs) if spec.datatype == "BYTES"]
        if strings:
            raise Misconfigured(f"model {config.name}: torch has no TYPE_STRING: {', '.join(strings)}")
        chosen = _device(device)
        _bound_forks()
        return cls(config, _load(path, chosen), chosen, threads)

    def compute(self, inputs: dict[str, Array]) -> Mapping[str, Array]:
        if self._limited_thread != (thread := get_ident()):
            torch.set_num_threads(self._threads)  # OpenMP, and so torch, has this setting per thread
            self._limited_thread = thread
        with self._inference:
            tensors = [self._tensor(inputs[name]) for name in self._inputs]
            if self._keywords:
                outputs = self._module(**dict(zip(self._inputs, tensors, strict=True)))
            else:
                outputs = self._module(*tensors)
            return self._named(outputs)

    def unload(self) -> None:
        """Drop the module, and release the GPU memory that torch caches."""
        self._module = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _tensor(self, array: Array) -> torch.Tensor:
        # torch has no read-only tensors: it would warn, and a model could overwrite a request.
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor.to(self._device) if self._device.type != "cpu" else tensor

    def _named(self, outputs: Any) -> dict[str, Array]:
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        if isinstance(outputs, dict):
            return {name: self._array(name, value) for name, value in outputs.items()}
        if not isinstance(outputs, tuple | list) or len(outputs) != len(self._outputs):
            count = len(outputs) if isinstance(outputs, tuple | list) else type(outputs).__name__
            raise Failed(
                f"model {self.config.name} returned {count} outputs, "
                f"and its config declares {len(self._outputs)}: {', '.join(self._outputs)}"
            )
        return {name: self._array(name, value) for name, value in zip(self._outputs, outputs, strict=True)}

    def _array(self, name: str, value: Any) -> Array:
        if not isinstance(value, torch.Tensor):
            raise Failed(f"model {self.config.name}: output {name} is a {type(value).__name__}, and must be a tensor")
        array: Array = value.numpy(force=True)
        return array


def _bound_forks() -> None:
    """Limit TorchScript's `fork` to one thread; that thread computes with the threads of the model."""
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)  # torch accepts it once per process


def _load(path: Path, device: torch.device) -> Any:
    try:
        with warnings.catch_warnings():
            # Deprecated in favour of torch.export, whose files Triton's backend cannot serve.
            warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated")
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as exc:
        raise Misconfigured(f"{path} is not a TorchScript file that torch can load: {described(exc)}") from exc
    module.eval()
    return module


def _device(wanted: str) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as exc:
        raise Misconfigured(f"device is {wanted!r}, and must be cpu, cuda, cuda:N or auto") from exc
    if device.type == "cuda" and (not has_gpu or (device.index or 0) >= torch.cuda.device_count()):
        raise Misconfigured(
            f"device is {wanted}, but torch sees {torch.cuda.device_count()} GPUs: use cpu or auto "
            "in processors.device, or KIND_CPU or KIND_AUTO in the model's instance_group"
        )
    return device


def _arguments(config: ModelConfig, module: Any) -> tuple[bool, list[str]]:
    """Return (inputs must be passed by name, their names in order). Hooks see only positional inputs."""
    arguments = module.forward.schema.arguments[1:]
    names = [argument.name for argument in arguments]
    needed = [argument.name for argument in arguments if not argument.has_default_value()]
    ordered = _ordered(config.inputs)
    if not len(needed) <= len(ordered) <= len(names):
        raise Misconfigured(
            f"model {config.name}: its module takes {', '.join(names) or 'nothing'}, "
            f"and its config declares {', '.join(ordered)}"
        )
    if not set(needed) <= set(ordered) <= set(names):
        return False, ordered
    matched = [name for name in names if name in ordered]
    return matched != names[: len(matched)], matched


def _ordered(specs: Sequence[TensorSpec]) -> list[str]:
    names = [spec.name for spec in specs]
    indices = [int(match[1]) for name in names if (match := _INDEXED.fullmatch(name))]
    if sorted(indices) == list(range(len(names))):
        return [name for _, name in sorted(zip(indices, names, strict=True))]
    return names
