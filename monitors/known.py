"""What there is to monitor: a fold of the `declared` and `status` logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from broker.delivery.clocks import CLOCKS
from broker.messages import Record
from broker.records.declared import read_declared
from broker.records.status import SILENT_AFTER_S, Announcement, read_status


class KnownVersions:
    """Endpoints that are or may be addressed, and the model versions that were ever announced or declared."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, host: str = "127.0.0.1") -> None:
        self._host = f"[{host}]" if ":" in host else host  # where all of them serve their metrics
        self._clock = clock
        self._targets: dict[str, set[tuple[str, int]]] = {}
        self._announced: set[tuple[str, int]] = set()
        self._parts: dict[str, tuple[Announcement, float]] = {}

    def fold_declared(self, record: Record) -> None:
        """Take in a record of the `declared` log."""
        declared = read_declared(record)
        if declared is None:
            return
        if declared.declaration is None:
            self._targets.pop(declared.endpoint, None)
            return
        arms = declared.declaration.arms.values()
        self._targets[declared.endpoint] = {(target.model, target.version) for target in arms}

    def fold_status(self, record: Record) -> None:
        """Take in a record of the `status` log."""
        said = read_status(record)
        if said is None:
            return
        self._parts[said.instance] = (said, self._clock() - CLOCKS.age_s(said.host, said.at_us))
        if said.part == "replica":
            self._announced.add((said.model, said.version))

    def targets(self) -> list[dict[str, Any]]:
        """Return who serves metrics now, as Prometheus' HTTP service discovery wants it."""
        oldest = self._clock() - SILENT_AFTER_S
        self._parts = {instance: part for instance, part in self._parts.items() if part[1] >= oldest}
        return [
            {
                "targets": [f"{self._host}:{said.metrics_port}"],
                "labels": {"part": said.part, "instance": said.instance, "model": said.model},
            }
            for said, _ in list(self._parts.values())
            if said.metrics_port and said.state not in ("stopped", "failed")
        ]

    def endpoints(self) -> set[str]:
        """Return declared endpoints, and models that none of them claims: these are served under their own names."""
        claimed = {model for targets in self._targets.values() for model, _ in targets}
        return {*self._targets, *(model for model, _ in self._announced if model not in claimed)}

    def versions(self) -> set[tuple[str, int]]:
        """Return (model, version) pairs."""
        return self._announced.union(*self._targets.values())
