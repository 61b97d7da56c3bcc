"""The statistics that replicas announce, in the form of Triton's statistics extension (GET …/stats)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from broker.messages import Record
from broker.records.endpoint import Target
from broker.records.replica_statistics import Duration, Statistics, read_statistics, total_of
from broker.records.status import read_status

REPLICAS_LIMIT = 256  # of one model version, kept separately; older ones are added up


class ModelStatistics:
    """Sums by replica, from the `status` log. Those of stopped replicas are kept while this gateway runs."""

    def __init__(self) -> None:
        self._by_version: defaultdict[tuple[str, int], dict[str, Statistics]] = defaultdict(dict)

    def fold(self, record: Record) -> None:
        """Read the statistics in an announcement; a restarted replica has a new name."""
        announcement = read_status(record)
        if announcement is None or not announcement.stats or announcement.part != "replica":
            return
        statistics = read_statistics(announcement.stats)
        if statistics is None:
            return
        replicas = self._by_version[announcement.model, announcement.version]
        replicas.pop(announcement.instance, None)
        replicas[announcement.instance] = statistics
        if len(replicas) > REPLICAS_LIMIT:
            oldest = list(replicas)[: len(replicas) - REPLICAS_LIMIT + 1]
            replicas[""] = total_of([replicas.pop(name) for name in oldest])

    def of(self, endpoint: str, target: Target) -> dict[str, Any]:
        """Return the sums over all replicas of a model version."""
        found = total_of(self._by_version.get((target.model, target.version), {}).values())
        return {
            "name": endpoint,
            "version": str(target.version),
            "last_inference": found.last_ms,
            "inference_count": found.rows,
            "execution_count": sum(it.count for it in found.batches.values()),
            "inference_stats": {
                "success": _duration(found.success),
                "fail": _duration(found.fail),
                "queue": _duration(found.queue),
                "compute_input": _duration(Duration(found.compute.count)),
                "compute_infer": _duration(found.compute),
                "compute_output": _duration(Duration(found.compute.count)),
                "cache_hit": _duration(Duration()),
                "cache_miss": _duration(Duration()),
            },
            "batch_stats": [_batch(size, it) for size, it in sorted(found.batches.items())],
        }


def _batch(size: int, it: Duration) -> dict[str, Any]:
    unknown = _duration(Duration(it.count))
    return {
        "batch_size": size,
        "compute_input": unknown,
        "compute_infer": _duration(it),
        "compute_output": unknown,
    }


def _duration(it: Duration) -> dict[str, int]:
    return {"count": it.count, "ns": it.total_us * 1000}
