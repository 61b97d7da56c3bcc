"""Checks the answers against the endpoint's event log, which has to hold one terminal row for each of them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from broker.base import Broker
from broker.events import read_event
from broker.feedback import read_feedback
from broker.ids import uid_of
from broker.messages import Record
from deploy.demo.folder import ENDPOINT

READ_AT_ONCE = 200
SILENCE_S = 20.0


class RowCheck:
    """Reads the log until every answer has its row, and all feedback is there."""

    def __init__(self, request_ids: list[str], feedback: int) -> None:
        self._wanted = {uid_of(request_id) for request_id in request_ids}
        self._feedback = feedback
        self._rows: Counter[tuple[bytes, int, int]] = Counter()
        self._labelled: set[bytes] = set()
        self._rows_of: Counter[str] = Counter()
        self._batches_of: defaultdict[str, float] = defaultdict(float)

    async def read(self, broker: Broker, start: int, on_row: Callable[[int], None]) -> None:
        """Read from `start` until everything is there, or nothing more comes."""
        reader = broker.read(broker.channels.events(ENDPOINT), start)
        try:
            while not self._complete():
                async with asyncio.timeout(SILENCE_S):
                    records = await reader.read(READ_AT_ONCE)
                before = len(self._rows)
                for record in records:
                    self._fold(record)
                on_row(len(self._rows) - before)
        except TimeoutError:
            return
        finally:
            await reader.close()

    def mean_batch(self, arm: str) -> float:
        """Return how many requests an arm's batches had, on average over its batches."""
        return self._rows_of[arm] / self._batches_of[arm] if self._batches_of[arm] else float("nan")

    def complaints(self) -> list[str]:
        """Return where the log disagrees with the answers; nothing if it does not."""
        seen = {uid for uid, _, _ in self._rows}
        lines = [
            ("requests without a row", len(self._wanted - seen)),
            ("rows of requests that nobody sent", len(seen - self._wanted)),
            ("(uid, leg, row) with more than one row", sum(count > 1 for count in self._rows.values())),
            ("labels that are not in the log", self._feedback - len(self._labelled & self._wanted)),
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
            self._batches_of[arm] += 1 / max(1, batch)  # each of a batch's rows is a share of it
