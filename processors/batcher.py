"""Forms batches: requests with the same signature, up to the model's row limit, oldest group first.

A batch waits for more requests only if the model's configuration asks for a queue delay.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from broker.delivery.ack_tracker import PendingAck
from broker.protocol.header import Request
from broker.tensor.tensors import Inputs


@dataclass(slots=True, eq=False, kw_only=True)
class BatchItem:
    """A decoded request on its way through a processor."""

    request: Request
    signature: Hashable  # requests with equal signatures may share a batch
    inputs: Inputs
    rows: int
    ack: PendingAck
    taken_us: int
    arrived_s: float  # monotonic


class Batcher:
    """The requests that wait for the worker, in one group per signature."""

    def __init__(self, *, max_rows: int, delay_s: float = 0.0) -> None:
        self._max_rows = max(1, max_rows)
        self._delay_s = delay_s
        self._groups: dict[Hashable, deque[BatchItem]] = {}
        self._rows: dict[Hashable, int] = {}
        self.waiting_rows = 0
        self.waiting_requests = 0

    @property
    def has_room(self) -> bool:
        """True while fewer than two batches' worth of rows wait, which is enough to keep the model busy."""
        return self.waiting_rows < 2 * self._max_rows

    def put(self, item: BatchItem) -> None:
        """Add one request to its group."""
        signature = item.signature
        group = self._groups.get(signature)
        if group is None:
            group = self._groups[signature] = deque()
            self._rows[signature] = 0
        group.append(item)
        self._rows[signature] += item.rows
        self.waiting_rows += item.rows
        self.waiting_requests += 1

    def pop(self, *, full: bool = False) -> list[BatchItem]:
        """Return the next batch that is due, or an empty list; with `full`, only a batch that cannot grow any more."""
        signature = self._due(full=full)
        if signature is None:
            return []
        group, rows = self._groups[signature], 0
        batch: list[BatchItem] = []
        while group and (not batch or rows + group[0].rows <= self._max_rows):
            item = group.popleft()
            rows += item.rows
            batch.append(item)
        self._rows[signature] -= rows
        if not group:
            del self._groups[signature], self._rows[signature]
        else:  # the rest of this group waits behind the other groups
            self._groups[signature] = self._groups.pop(signature)
        self.waiting_rows -= rows
        self.waiting_requests -= len(batch)
        return batch

    def due_in_s(self) -> float | None:
        """Seconds until the oldest group is due; 0 if one is due now, None if nothing waits."""
        if not self._groups:
            return None
        if self._due() is not None:
            return 0.0
        oldest = min(group[0].arrived_s for group in self._groups.values())
        return max(0.0, oldest + self._delay_s - time.monotonic())

    def _due(self, *, full: bool = False) -> Hashable | None:
        if not self._delay_s and not full:
            return next(iter(self._groups), None)
        now = time.monotonic()
        for signature, group in self._groups.items():
            if self._rows[signature] >= self._max_rows or (not full and now - group[0].arrived_s >= self._delay_s):
                return signature
        return None
