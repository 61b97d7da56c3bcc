"""The demonstration, small, with the process engine."""

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


def test_it_ends_with_a_table_and_exit_status_0(tmp_path: Path) -> None:
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
    for said in ("answered 64 of 64, labels accepted 64 of 64", "linear", "cnn", "exactly one row"):
        assert said in done.stdout
    assert list(tmp_path.glob("millrace-demo-*")) == []


def test_a_wrong_engine_is_exit_status_2(tmp_path: Path) -> None:
    done = millrace("demo", "--engine", "steam", folder=tmp_path)
    assert done.returncode == 2
    assert "known engines are ray, process" in done.stderr


@pytest.mark.parametrize("scenario", [[], ["--scenario", "bandit"]])
def test_a_broker_that_does_not_answer_is_said_before_anything_is_trained(tmp_path: Path, scenario: list[str]) -> None:
    done = millrace("demo", *scenario, "--broker", "amqp://127.0.0.1:1/", folder=tmp_path)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "training" not in done.stdout


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([answer(0)], "not answered: 1 (1)"),
        ([answer(0), answer(1), answer(1, request_id="another")], "answered twice: 1 (1)"),
        ([answer(0), answer(1, request_id="id 0")], "request ids used twice: 1 (id 0)"),
        ([answer(0), answer(1, status="expired")], "failed: 1 (HTTP request 1: expired)"),
    ],
)
def test_a_tally_that_is_not_exactly_once_complains(answers: list[TallyAnswer], said: str) -> None:
    assert Tally(np.array([1, 2]), answers).complaints() == [said]


def test_a_tally_of_one_answer_each_does_not_complain() -> None:
    tally = Tally(np.array([1, 2]), [answer(0), answer(1)])
    assert tally.complaints() == []
    assert tally.accuracy("cnn") == 0.5


def test_answers_without_rows_and_labels_are_complained_about() -> None:
    check = RowCheck("digits", {UID: 1}, 1)
    assert check.complaints() == [
        "requests without a row: 1",
        "labels that are not in the log: 1",
    ]
