"""A shadow's answers compared with the served ones: pairs by uid, their agreement, and missing halves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from broker.messages import Record
from broker.protocol.header import Request, Route, Status
from broker.protocol.ids import derived_uid
from broker.records.events import EndedRequests, write_event
from router.evidence.report import report
from router.evidence.sections import Section, Table
from router.evidence.shadows import footrule_of_lists, footrule_of_scores
from tests.router.evidence.logs import endpoint, recorded
from tests.router.learning.traces import START_US, numbered

SHADOW = {"shadow": "b", "serve": "a", "sample": "50%"}
Output = np.ndarray[Any, Any]


def leg(
    number: int, leg: int, output: Output | None, *, status: Status = Status.OK, compute_us: int = 1000, rows: int = 1
) -> Record:
    route = Route(endpoint="e", arm="ab"[leg], model="m", version=leg + 1, policy="shadow", mask=7, leg=leg)
    uid, at_us = derived_uid(b"shadow", str(number).encode()), START_US + number * 1000
    request = Request(route=route, uid=uid, accepted_us=at_us, propensity=1.0 - leg)
    ended = EndedRequests(
        requests=[request],
        rows=[rows],
        taken_us=[at_us],
        status=status,
        started_us=at_us,
        computed_us=at_us + compute_us,
        published_us=at_us + compute_us + 500,
    )
    outputs = [] if output is None else [{"score": output}]
    body, headers = write_event([ended], [], outputs, source="/test")
    return Record(0, body, headers)


def table(sections: list[Section], key: str) -> dict[str, object]:
    found = next(one for one in sections if isinstance(one, Table) and one.key == key)
    return {str(row[0]): row[1] for row in found.rows}


def test_pairs_are_compared_whichever_leg_comes_first() -> None:
    one, other = np.array([[0.1, 0.7, 0.2]]), np.array([[0.3, 0.2, 0.5]])
    log = [
        leg(1, 0, one),
        leg(1, 1, one),
        leg(2, 1, other, compute_us=3000),
        leg(2, 0, one),
        leg(3, 0, one),
        leg(3, 1, None, status=Status.FAILED),
        leg(4, 0, one),
        leg(4, 1, None, status=Status.OVERLOADED),
        leg(5, 0, one),
        leg(6, 1, other),
        leg(1, 1, one),
    ]
    sections = report(recorded(endpoint(SHADOW), numbered(log)))
    shadow, agreement = table(sections, "shadow"), table(sections, "agreement")
    assert list(shadow.values()) == [5, 3, 1, 1, 4, 2, 1, 1]
    assert agreement["equal outputs"] == 0.5
    assert agreement["rows with the same largest place (argmax)"] == 0.5
    assert agreement["mean absolute difference"] == pytest.approx((0.0 + (0.2 + 0.5 + 0.3) / 3) / 2)
    assert agreement["greatest absolute difference"] == pytest.approx(0.5)
    latency = next(one for one in sections if isinstance(one, Table) and one.key == "latency")
    assert latency.rows[0][1] == pytest.approx(1.0)  # 0 and 2 ms more
    assert latency.rows[1][1] == pytest.approx(1.0)


def test_rows_of_a_request_are_compared_one_by_one() -> None:
    served, shadow = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    log = numbered([leg(1, 0, served, rows=2), leg(1, 1, shadow, rows=2)])
    agreement = table(report(recorded(endpoint(SHADOW), log)), "agreement")
    assert agreement["rows with the same largest place (argmax)"] == 0.5
    assert agreement["rank distance, mean (Spearman's footrule, 0 to 1)"] == 0.5


def test_without_outputs_latency_is_all_that_is_compared() -> None:
    sections = report(recorded(endpoint(SHADOW), numbered([leg(1, 0, None), leg(1, 1, None)])))
    found = next(one for one in sections if isinstance(one, Table) and one.key == "agreement")
    assert "no outputs were compared" in found.notes[0]
    assert table(sections, "shadow")["pairs"] == 1


def test_numbers_that_are_none_and_other_widths_are_no_difference() -> None:
    log = [
        leg(1, 0, np.array([[np.nan, 1.0]])),
        leg(1, 1, np.array([[0.0, 1.0]])),
        leg(2, 0, np.array([[1.0, 2.0, 3.0]])),
        leg(2, 1, np.array([[1.0, 2.0]])),
    ]
    agreement = table(report(recorded(endpoint(SHADOW), numbered(log))), "agreement")
    assert agreement["mean absolute difference"] is None
    assert agreement["equal outputs"] == 0.0


def test_footrules_are_zero_for_the_same_order_and_one_for_the_most() -> None:
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    assert footrule_of_scores(scores, scores * 2) == 0.0
    assert footrule_of_scores(scores, -scores) == 1.0
    assert footrule_of_lists(["x", "y", "z"], ["x", "y", "z"]) == 0.0
    assert footrule_of_lists(["x", "y"], ["a", "b", "c"]) == 1.0
    assert 0.0 < footrule_of_lists(["x", "y", "z"], ["y", "x", "z"]) < 0.5
