"""A loaded model version: decodes requests, computes batches, encodes answers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from broker.errors import Failed, MillraceError
from broker.protocol.header import Request
from broker.tensor.outputs import Encoded, encode, encode_rows
from broker.tensor.tensors import Inputs, assemble, check, decode, decode_raw
from processors.batcher import BatchItem
from processors.config import ModelConfig
from processors.runtimes.base import Runtime
from processors.signature import signature

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedBatch:
    """One successful call of the model; `inputs` and `outputs` hold the rows of `items` in the same order."""

    items: Sequence[BatchItem]
    inputs: Arrays
    outputs: Arrays
    started_us: int
    computed_us: int

    @property
    def rows(self) -> int:
        """The number of rows in the batch."""
        return sum([item.rows for item in self.items])

    def rows_of(self, items: Sequence[BatchItem]) -> tuple[Arrays, Arrays]:
        """Return the inputs and outputs of some of the items, in batch order; for all items they are not copied."""
        if len(items) == len(self.items):
            return self.inputs, self.outputs
        wanted = {id(item) for item in items}
        rows = np.repeat([id(item) in wanted for item in self.items], [item.rows for item in self.items])
        chosen = [{name: array[rows] for name, array in arrays.items()} for arrays in (self.inputs, self.outputs)]
        return chosen[0], chosen[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedItem:
    """A request that the model failed to compute, with the error."""

    item: BatchItem
    error: MillraceError
    started_us: int
    computed_us: int


class LoadedModel:
    """One model version with its runtime. `max_rows` is the row limit of a batch, 1 for a model that does not batch."""

    def __init__(self, config: ModelConfig, version: int, runtime: Runtime) -> None:
        self.config = config
        self.version = version
        self.runtime = runtime
        self.batches = config.max_batch_size > 0
        self.max_rows = max(1, config.max_batch_size)

    def decode(self, request: Request) -> tuple[Inputs, int, Hashable]:
        """Return the tensors of a request, its number of rows and its signature. Raises a `Rejected` error."""
        if request.json_length == 0:
            inputs = decode_raw(request.body, self.config.inputs, max_rows=self.config.max_batch_size)
        else:
            inputs = decode(request.body, request.json_length)
        rows = check(inputs, self.config.inputs, max_rows=self.config.max_batch_size)
        return inputs, rows, signature(inputs)

    def infer(self, items: Sequence[BatchItem]) -> tuple[Arrays, Arrays]:
        """Compute a batch and return its input and output arrays.

        Raises `Failed` for any exception of the model's code, and when memory runs out.
        """
        try:
            inputs = self._assembled(items)
        except MemoryError as exc:
            raise Failed(f"model {self.config.name}: no memory for the inputs of {len(items)} requests") from exc
        return inputs, self.runtime.infer(dict(inputs))  # a copy: a model may change the dict, and ours is logged

    def _assembled(self, items: Sequence[BatchItem]) -> Arrays:
        if self.batches:
            return assemble([item.inputs.tensors for item in items], self.config.inputs)
        return {name: np.array(array) for name, array in items[0].inputs.tensors.items()}

    def encode(self, computed: ComputedBatch) -> list[Encoded | MillraceError]:
        """Return the answer body of each item, or an error if its outputs cannot be encoded."""
        version = str(self.version)
        if not self.batches:
            return [self._encode_one(computed, version)]
        cuts, names, at = [], [], 0
        for item in computed.items:
            cuts.append((item.inputs.head, at, at + item.rows))
            names.append(item.request.route.endpoint)
            at += item.rows
        if names.count(names[0]) == len(names):
            return encode_rows(computed.outputs, cuts, model=names[0], version=version)
        return [
            encode_rows(computed.outputs, [cut], model=name, version=version)[0]
            for cut, name in zip(cuts, names, strict=True)
        ]

    def _encode_one(self, computed: ComputedBatch, version: str) -> Encoded | MillraceError:
        item = computed.items[0]
        try:
            return encode(computed.outputs, head=item.inputs.head, model=item.request.route.endpoint, version=version)
        except MillraceError as exc:
            return exc


def describe(config: ModelConfig, versions: Sequence[int]) -> Mapping[str, Any]:
    """Return a model's metadata (Open Inference Protocol) and its configuration (Triton's field names)."""
    return {
        "metadata": {
            "name": config.name,
            "versions": [str(version) for version in versions],
            "platform": config.runtime,
            "inputs": [_tensor(spec) for spec in config.inputs],
            "outputs": [_tensor(spec) for spec in config.outputs],
        },
        "config": config.json,
        "max_batch_size": config.max_batch_size,
    }


def _tensor(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
