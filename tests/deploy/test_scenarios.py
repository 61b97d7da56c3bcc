"""The demonstration's scenarios: two small runs on the embedded broker; plots, claims and clicks."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from broker.records.routing import SnapshotRecord
from deploy.demo.scenarios.canary import how_it_ended
from deploy.demo.scenarios.claims import ScenarioClaim, print_claims
from deploy.demo.scenarios.clicks import clicks_on
from deploy.demo.scenarios.plot import Picture, PlotArea, PlotBand, PlotLine, draw
from tests.deploy.running import environment

WITHIN_S = 220.0  # half a minute on an idle machine
HELD = "each was answered once, and has its rows once"


def scenario(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "demo", "--scenario", *words],
        cwd=folder,
        env=environment(TMPDIR=str(folder), COLUMNS="100"),
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )


@pytest.mark.timeout(WITHIN_S + 10)
def test_a_bandit_sends_the_last_requests_to_the_better_arm(tmp_path: Path) -> None:
    """The error bound of the whole scenario also holds for the last 175 of 700, with the trained models' gap of .3."""
    done = scenario(tmp_path, "bandit", "--requests", "700")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of the last 175 requests went to strong" in done.stdout
    assert HELD in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if "┤" in line) <= 100
    assert list(tmp_path.glob("millrace-demo-*")) == []


@pytest.mark.timeout(WITHIN_S + 10)
def test_interleaving_proves_the_better_ranker(tmp_path: Path) -> None:
    done = scenario(tmp_path, "interleaving", "--requests", "850")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the experiment is 'decided', with weights [0.0, 1.0] of v1 and v2" in done.stdout
    assert HELD in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("lottery",), "known scenarios are bandit, canary, shadow, interleaving"),
        (("bandit", "--serve"), "--serve cannot be used with --scenario"),
    ],
)
def test_an_unknown_scenario_and_serve_with_a_scenario_are_exit_status_2(
    tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    done = scenario(tmp_path, *words)
    assert done.returncode == 2
    assert expected in done.stderr


def test_a_line_with_steps_keeps_each_value_until_the_next_point() -> None:
    line = PlotLine(name="weight", mark="─", points=[(0, 0.0), (50, 1.0)], steps=True)
    assert draw(picture(lines=[line]), 20) == [
        "a title",
        "    100% ┤    ──────",
        "     50% ┤",
        "      0% ┤────",
        "         └──────────",
        "          0  x   100",
        "          ─ weight",
    ]


def test_points_are_drawn_on_top_of_earlier_lines() -> None:
    below = PlotLine(name="weight", mark="─", points=[(0, 0.5)], steps=True)
    points = PlotLine(name="share", mark="●", points=[(5, 0.5), (95, 2.0)])
    rows = draw(picture(lines=[below, points]), 20)[1:4]
    assert rows == ["    100% ┤         ●", "     50% ┤●─────────", "      0% ┤"]


def test_an_area_is_filled_to_an_eighth_of_a_row() -> None:
    area = PlotArea(name="share", points=[(0, 0.5), (50, 1.0)])
    rows = draw(picture(areas=[area]), 20)[1:4]
    assert rows == ["    100% ┤    ██████", "     50% ┤▄▄▄▄██████", "      0% ┤██████████"]


def test_marked_values_cross_bands_and_lines_are_drawn_on_top() -> None:
    band = PlotBand(name="limits", mark="░", points=[(0, 0.0, 1.0)])
    line = PlotLine(name="mean", mark="●", points=[(5, 0.5)])
    rows = draw(picture(areas=[band], lines=[line], marked=(0.5,)), 20)[1:4]
    assert rows == ["    100% ┤░░░░░░░░░░", "     50% ┤●┄┄┄┄┄┄┄┄┄", "      0% ┤░░░░░░░░░░"]


@pytest.mark.parametrize("width", [20, 79, 200])
def test_a_picture_is_never_wider_than_the_terminal(width: int) -> None:
    lines = [PlotLine(name="a name that is long " * 3, mark=mark, points=[(0, 0.5)]) for mark in "●○"]
    assert max(map(len, draw(picture(lines=lines), width))) <= width


def picture(
    *,
    areas: list[PlotArea | PlotBand] | None = None,
    lines: list[PlotLine] | None = None,
    marked: tuple[float, ...] = (),
) -> Picture:
    return Picture(
        title="a title",
        x=(0, 100),
        y=(0.0, 1.0),
        x_name="x",
        areas=areas or [],
        lines=lines or [],
        height=3,
        percent=True,
        marked=marked,
    )


def test_all_claims_are_printed_and_one_failed_claim_fails_the_scenario() -> None:
    console = Console(file=io.StringIO(), width=100)
    assert not print_claims(
        console, [ScenarioClaim("two [and] two are 4", held=True), ScenarioClaim("0 of 3 came", held=False)]
    )
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["", "  held  two [and] two are 4", "FAILED  0 of 3 came"]


@pytest.mark.parametrize(
    ("phase", "tripped", "ended"),
    [
        ("aborted", 0, "was rolled back by the guardrail on failed"),
        ("aborted", 1, "was rolled back by the guardrail on right"),
        ("promoted", None, "was promoted"),
        ("step 2 of 3", None, "is at step 2 of 3"),
    ],
)
def test_the_end_of_a_canary_is_described_from_its_last_snapshot(phase: str, tripped: int | None, ended: str) -> None:
    snapshot = SnapshotRecord(
        endpoint="e", experiment="x", term=1, number=9, weights=(), phase=phase, about={"tripped": tripped}
    )
    assert how_it_ended(snapshot) == ended


def test_simulated_users_click_from_the_top_and_may_leave_after_a_click() -> None:
    random = np.random.default_rng(3)
    clicks = [clicks_on([False, True, True, True], random) for _ in range(4000)]
    first = np.mean([0 in clicked for clicked in clicks])
    second = np.mean([1 in clicked for clicked in clicks])
    # The tolerance is four deviations: .05 click the first item; .8 of the users who have not left click the second.
    assert first == pytest.approx(0.05, abs=0.014)
    assert second == pytest.approx((1 - 0.05 * 0.7) * 0.8, abs=0.027)
