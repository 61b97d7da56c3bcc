"""The endpoints and model versions of the installation, from the `declared` and `status` logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from broker.delivery.clocks import CLOCKS
from broker.messages import Record
from broker.records.declared import read_declared
from broker.records.status import SILENT_AFTER_S, Announcement, read_status


class KnownVersions:
    """Endpoints that clients can address, and model versions that were ever announced or declared."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, host: str = "127.0.0.1") -> None:
        self._host = f"[{host}]" if ":" in host else host  # on which every process serves its metrics
        self._clock = clock
        self._targets: dict[str, set[tuple[str, int]]] = {}
        self._announced: set[tuple[str, int]] = set()
        self._parts: dict[str, tuple[Announcement, float]] = {}

    def fold_declared(self, record: Record) -> None:
        """Read a record of the `declared` log."""
        declared = read_declared(record)
        if declared is None:
            return
        if declared.declaration is None:
            self._targets.pop(declared.endpoint, None)
            return
        arms = declared.declaration.arms.values()
        self._targets[declared.endpoint] = {(target.model, target.version) for target in arms}

    def fold_status(self, record: Record) -> None:
        """Read a record of the `status` log."""
        announcement = read_status(record)
        if announcement is None:
            return
        at_s = self._clock() - CLOCKS.age_s(announcement.host, announcement.at_us)
        self._parts[announcement.instance] = (announcement, at_s)
        if announcement.part == "replica":
            self._announced.add((announcement.model, announcement.version))

    def targets(self) -> list[dict[str, Any]]:
        """The processes that serve metrics now, in the format of Prometheus' HTTP service discovery."""
        oldest = self._clock() - SILENT_AFTER_S
        self._parts = {instance: part for instance, part in self._parts.items() if part[1] >= oldest}
        return [
            {
                "targets": [f"{self._host}:{part.metrics_port}"],
                "labels": {"part": part.part, "instance": part.instance, "model": part.model},
            }
            for part, _ in list(self._parts.values())
            if part.metrics_port and part.state not in ("stopped", "failed")
        ]

    def endpoints(self) -> set[str]:
        """Declared endpoints, and announced models that no endpoint declares: they are served under their own names."""
        claimed = {model for targets in self._targets.values() for model, _ in targets}
        return {*self._targets, *(model for model, _ in self._announced if model not in claimed)}

    def versions(self) -> set[tuple[str, int]]:
        """All announced or declared (model, version) pairs."""
        return self._announced.union(*self._targets.values())
