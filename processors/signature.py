"""The signature of a request: only requests with equal signatures share a batch."""

from __future__ import annotations

from typing import Final, TypeAlias

from broker.tensor.inference import Head
from broker.tensor.tensors import Inputs

Signature: TypeAlias = tuple[tuple[str, str, tuple[int, ...]], ...]
"""The name, the datatype, and the shape without the batch dimension of each input, ordered by name."""

_MAX_KNOWN: Final = 4096
_known: dict[Head, Signature] = {}


def signature(inputs: Inputs) -> Signature:
    """Return the signature of checked inputs. The signatures of shared heads are cached."""
    head = inputs.head
    if not head.shared:
        return _signature(head)
    known = _known.get(head)
    if known is None:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        known = _known[head] = _signature(head)
    return known


def _signature(head: Head) -> Signature:
    entries = [(item.name, item.datatype, item.shape[1:]) for item in head.inputs]
    if len(entries) > 1:
        entries.sort()
    return tuple(entries)
