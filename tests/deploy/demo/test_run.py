"""A small run of the demonstration with the process engine, and its checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy.demo.rows import RowCheck
from deploy.demo.tally import Tally, TallyAnswer
from tests.deploy.running import environment, millrace

UID = "01a1fdb7-9c84-7a2f-9813-36f23c555fdb"


def answer(number: int, status: str = "ok", request_id: str = "") -> TallyAnswer:
    return TallyAnswer(
        number=number,
        way="HTTP",
        request_id=request_id or f"id {number}",
        status=status,
        arm="cnn",
        label=1,
        latency_s=0.1,
    )


def test_the_demonstration_ends_with_a_table_and_exit_status_0(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "demo", "--engine", "process", "--requests", "64"],
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("answered 64 of 64, labels accepted 64 of 64", "linear", "cnn", "exactly one row"):
        assert text in done.stdout
    assert list(tmp_path.glob("millrace-demo-*")) == []


def test_a_wrong_engine_is_exit_status_2(tmp_path: Path) -> None:
    done = millrace("demo", "--engine", "steam", folder=tmp_path)
    assert done.returncode == 2
    assert "known engines are ray, process" in done.stderr


@pytest.mark.parametrize("scenario", [[], ["--scenario", "bandit"]])
def test_an_unreachable_broker_is_reported_before_the_training(tmp_path: Path, scenario: list[str]) -> None:
    done = millrace("demo", *scenario, "--broker", "amqp://127.0.0.1:1/", folder=tmp_path)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "training" not in done.stdout


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([answer(0)], "not answered: 1 (1)"),
        ([answer(0), answer(1), answer(1, request_id="another")], "answered twice: 1 (1)"),
        ([answer(0), answer(1, request_id="id 0")], "request ids used twice: 1 (id 0)"),
        ([answer(0), answer(1, status="expired")], "failed: 1 (HTTP request 1: expired)"),
    ],
)
def test_a_tally_reports_requests_without_exactly_one_answer(answers: list[TallyAnswer], expected: str) -> None:
    assert Tally(np.array([1, 2]), answers).complaints() == [expected]


def test_a_tally_with_one_answer_for_each_request_reports_nothing() -> None:
    tally = Tally(np.array([1, 2]), [answer(0), answer(1)])
    assert tally.complaints() == []
    assert tally.accuracy("cnn") == 0.5


def test_answers_without_rows_and_labels_are_reported() -> None:
    check = RowCheck("digits", {UID: 1}, 1)
    assert check.complaints() == [
        "requests without a row: 1",
        "labels that are not in the log: 1",
    ]
