"""The comparison of a shadow with the serving arm, as tables."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from router.evidence.rows import quantiles_ms
from router.evidence.sections import Cell, Table
from router.evidence.shadows import REFUSED, ShadowComparison, ShadowPairs


def shadow_tables(shadows: ShadowPairs) -> list[Table]:
    """Return tables of the number of pairs, of their agreement, and of the shadow's additional latency."""
    return [_pairs(shadows), _agreement(shadows.compared), _latency(shadows.compared)]


def _pairs(shadows: ShadowPairs) -> Table:
    of = shadows.compared
    refused = sum(of.statuses[word] for word in REFUSED)
    rows = [
        ("shadow requests", sum(of.statuses.values())),
        ("answered", of.statuses["ok"]),
        ("failed", of.statuses["failed"]),
        ("refused or expired", refused),
        ("pairs", of.pairs),
        ("pairs whose outputs were compared", of.comparable),
        ("incomplete: the answered half is missing", shadows.incomplete),
        ("requests without a shadow's row: not in the sample, or missing", shadows.alone),
    ]
    return Table(key="shadow", title="Shadow requests", columns=("what", "number"), rows=rows)


def _agreement(of: ShadowComparison) -> Table:
    difference = np.array(of.difference)
    distance = np.array(of.rank_distance)
    rows: list[Sequence[Cell]] = [
        ("equal outputs", _share(of.equal, of.comparable)),
        ("rows with the same largest place (argmax)", _share(of.argmax_equal, of.argmax_rows)),
        ("mean absolute difference", float(difference.mean()) if len(difference) else None),
        ("greatest absolute difference", of.most if len(difference) else None),
        ("rank distance, mean (Spearman's footrule, 0 to 1)", float(distance.mean()) if len(distance) else None),
    ]
    notes = [] if of.comparable else ["no outputs were compared: are they logged (log.sample, log.drop, compare)?"]
    return Table(key="agreement", title="How far they agree", columns=("what", "value"), rows=rows, notes=notes)


def _latency(of: ShadowComparison) -> Table:
    rows: list[Sequence[Cell]] = [
        ("compute", *_spread(of.compute_us)),
        ("from the door to the end", *_spread(of.total_us)),
    ]
    columns = ("shadow less served, ms", "mean", "p10", "p50", "p90", "p99")
    return Table(key="latency", title="How much longer the shadow takes", columns=columns, rows=rows)


def _spread(values_us: array[int]) -> list[float | None]:
    values = np.array(values_us, np.float64)
    mean = float(values.mean()) / 1000.0 if len(values) else None
    return [mean, *quantiles_ms(values, (0.1, 0.5, 0.9, 0.99))]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
