"""Who gets which arm: uniform, the same everywhere and for ever, independent between experiments, and sticky."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency

from broker.protocol.ids import uniform
from router.drawing.router import Router
from router.policies.snapshot import WeightSnapshot
from tests.router.drawing.routers import router_of

MANY = 1_000_000
KEYS = 25_000
GOLDEN = Path(__file__).with_name("golden_assignments.json")
UNLIKELY = 1e-4


def ids(number: int) -> list[bytes]:
    """Return ids that follow one another: a weak hash shows with them first."""
    return [place.to_bytes(16, "big") for place in range(number)]


def keyed(router: Router, weights: tuple[float, ...], number: int = 1) -> list[str]:
    """Return the arm of each of KEYS keys, under these weights."""
    router.follow(WeightSnapshot(number, weights))
    return [router.plan(b"", 0b111, key=f"user-{place}").legs[0].arm for place in range(KEYS)]


def test_assignments_are_those_that_were_once_written_down() -> None:
    """P2: golden vectors. Another hash, salt or draw would move every user of every experiment."""
    golden = json.loads(GOLDEN.read_text())
    for case in golden:
        router = router_of(case["policy"], case["secret"].encode(), **case["more"])
        found = [
            (uid, key, router.plan(bytes.fromhex(uid), case["mask"], key=key).legs[0].arm)
            for uid, key, _ in case["plans"]
        ]
        assert found == [tuple(plan) for plan in case["plans"]], case["policy"]
        assert len({arm for *_, arm in found}) > 1


def test_a_million_ids_are_spread_evenly() -> None:
    """P2: chi-square over 1000 cells, and over the last bits; a false alarm each in 5000, but the ids stay the same."""
    numbers = np.array([uniform(b"secret", b"e", one) for one in ids(MANY)])
    for cells in (np.floor(numbers * 1000), np.floor(numbers * 2.0**53) % 256):
        counts = np.bincount(cells.astype(np.int64))
        statistic = ((counts - MANY / len(counts)) ** 2).sum() / (MANY / len(counts))
        assert UNLIKELY < chi2.sf(statistic, len(counts) - 1) < 1 - UNLIKELY


@pytest.mark.parametrize("sticky", [False, True])
def test_two_experiments_are_assigned_independently(sticky: bool) -> None:
    """P2: a table of the arms in both, for ids that follow one another; and so for salts that differ by one letter."""
    routers = [router_of({"split": ["a", "b"], "sticky": sticky}, experiment=name) for name in ("e1", "e2", "e10")]
    arms = [["ab".index(router.plan(one, 0b111).legs[0].arm) for one in ids(50_000)] for router in routers]
    for one, other in pairwise(arms):
        table = np.bincount(2 * np.array(one) + np.array(other), minlength=4).reshape(2, 2)
        assert chi2_contingency(table).pvalue > UNLIKELY


@pytest.mark.parametrize(("sticky", "number"), [(False, MANY), (True, MANY // 5)])
def test_a_tenth_of_a_percent_is_honoured_and_nothing_is_nothing(sticky: bool, number: int) -> None:
    """P3: 5 standard errors of a binomial share, 6e-7."""
    router = router_of({"split": {"a": 99.9, "b": 0.1, "c": 0}, "sticky": sticky})
    drawn = [router.plan(one, 0b111).legs[0].arm for one in ids(number)]
    assert drawn.count("c") == 0
    assert abs(drawn.count("b") - number * 0.001) < 5 * (number * 0.001 * 0.999) ** 0.5


@pytest.mark.parametrize("sticky", [False, True])
def test_all_is_all(sticky: bool) -> None:
    """P3."""
    router = router_of({"split": {"a": 0, "b": 100, "c": 0}, "sticky": sticky})
    assert {router.plan(one, 0b111).legs[0].arm for one in ids(100_000)} == {"b"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0.34, 0.33, 0.33), (0.6, 0.2, 0.2)),
        ((0.5, 0.5, 0.0), (0.4, 0.4, 0.2)),
        ((0.9, 0.1, 0.0), (0.1, 0.9, 0.0)),
        ((1 / 3, 1 / 3, 1 / 3), (0.5, 0.5, 0.0)),
    ],
)
def test_no_more_keys_move_than_must_where_the_others_keep_their_proportions(
    before: tuple[float, ...], after: tuple[float, ...]
) -> None:
    """P4: one arm gains or loses, or there are two; 4 standard errors."""
    router = router_of({"split": ["a", "b", "c"], "sticky": True})
    first, second = keyed(router, before), keyed(router, after)
    distance = sum(abs(one - other) for one, other in zip(before, after, strict=True)) / 2
    moved = sum(one != other for one, other in zip(first, second, strict=True)) / KEYS
    assert abs(moved - distance) < 4 * (distance * (1 - distance) / KEYS) ** 0.5
    assert keyed(router, before) == first  # going back returns every key


def test_where_all_weights_change_the_keys_that_move_are_as_many_as_the_race_says() -> None:
    """P4: then rendezvous moves more than the distance d of the weights, at most 2d / (1 + d)."""
    before, after = (0.5, 0.3, 0.2), (0.2, 0.5, 0.3)
    router = router_of({"split": ["a", "b", "c"], "sticky": True})
    first, second = keyed(router, before), keyed(router, after)
    moved = sum(one != other for one, other in zip(first, second, strict=True)) / KEYS
    stays = sum(
        1 / sum(max(p / before[arm], q / after[arm]) for p, q in zip(before, after, strict=True)) for arm in range(3)
    )
    distance = 0.3
    assert distance < 1 - stays <= 2 * distance / (1 + distance)
    assert abs(moved - (1 - stays)) < 4 * (stays * (1 - stays) / KEYS) ** 0.5
    assert keyed(router, before) == first
