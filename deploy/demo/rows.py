"""Checks the answers against the endpoint's event log, which must have one terminal row for each of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from broker.base import Broker
from broker.messages import Record
from broker.protocol.ids import uid_of
from broker.records.events import read_event
from broker.records.feedback import read_feedback

READ_AT_ONCE = 200
SILENCE_S = 20.0


class RowCheck:
    """Reads an event log until every answer has its rows and all feedback has arrived."""

    def __init__(self, endpoint: str, legs: Mapping[str, int], feedback: int) -> None:
        """`legs` are the numbers of legs by request id; `feedback` is the number of requests with feedback."""
        self._endpoint = endpoint
        self._wanted = {(uid_of(request_id), leg) for request_id, count in legs.items() for leg in range(count)}
        self._feedback = feedback
        self._rows: Counter[tuple[bytes, int, int]] = Counter()
        self._labelled: set[bytes] = set()
        self._rows_of: Counter[str] = Counter()
        self._batches_of: defaultdict[str, float] = defaultdict(float)

    async def read(self, broker: Broker, start: int, on_row: Callable[[int], None]) -> None:
        """Read from offset `start` until everything has arrived, or no new row arrived for SILENCE_S.

        `on_row` is called with the number of new rows.
        """
        reader = broker.read(broker.channels.events(self._endpoint), start)
        patient_until = time.monotonic() + SILENCE_S
        try:
            while not self._complete():
                async with asyncio.timeout(patient_until - time.monotonic()):
                    records = await reader.read(READ_AT_ONCE)
                before = len(self._rows)
                for record in records:
                    self._fold(record)
                if len(self._rows) > before:  # other records, such as ticks, do not count
                    patient_until = time.monotonic() + SILENCE_S
                on_row(len(self._rows) - before)
        except TimeoutError:
            return
        finally:
            await reader.close()

    @property
    def repeats(self) -> int:
        """The number of repeated rows: a replica that died before its acks makes another one compute them again."""
        return sum(self._rows.values()) - len(self._rows)

    def mean_batch(self, arm: str) -> float:
        """The mean number of requests in an arm's batches."""
        return self._rows_of[arm] / self._batches_of[arm] if self._batches_of[arm] else float("nan")

    def complaints(self, *, may_repeat: bool = False) -> list[str]:
        """List the contradictions between the log and the answers."""
        seen, sent = {(uid, leg) for uid, leg, _ in self._rows}, {uid for uid, _ in self._wanted}
        lines = [
            ("requests without a row", len(self._wanted - seen)),
            ("rows of requests that were not sent", len(seen - self._wanted)),
            ("(uid, leg, row) with more than one row", 0 if may_repeat else sum(n > 1 for n in self._rows.values())),
            ("labels that are not in the log", self._feedback - len(self._labelled & sent)),
        ]
        return [f"{what}: {count}" for what, count in lines if count]

    def _complete(self) -> bool:
        return len(self._rows) >= len(self._wanted) and len(self._labelled) >= self._feedback

    def _fold(self, record: Record) -> None:
        feedback = read_feedback(record)
        if feedback is not None:
            self._labelled.add(feedback.uid)
            return
        rows: Any = read_event(record)
        if rows is None:
            return
        columns = {name: rows.column(name).to_pylist() for name in ("uid", "leg", "row", "arm", "batch")}
        for uid, leg, row, arm, batch in zip(*columns.values(), strict=True):
            self._rows[uid, leg, row] += 1
            self._rows_of[arm] += 1
            self._batches_of[arm] += 1 / max(1, batch)  # the rows of a batch sum to one batch
