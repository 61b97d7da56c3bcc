"""The output, the questions and the errors of `millrace dead`, on the embedded broker."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.messages import Message
from deploy.wiring import Installation
from tests.deploy.dead_letter_queues import DeadLetterQueues
from tests.deploy.running import millrace

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def uids(tmp_path: Path) -> list[str]:
    """Bury three requests of `shop` and an unreadable message; returns the requests' uids."""
    return asyncio.run(bury(tmp_path))


async def bury(folder: Path) -> list[str]:
    queues = DeadLetterQueues(folder, "")
    await queues.open()
    uids = await queues.bury(3)
    await queues.bury_messages([Message(queue=queues.model_queue, body=b"junk", header=b"no")], "unreadable")
    await queues.broker.close()
    return uids


@pytest.fixture
def dead(uids: list[str], tmp_path: Path) -> Run:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return millrace("dead", *words, folder=tmp_path)

    assert len(uids) == 3
    return run


def test_a_list_counts_by_reason(dead: Run) -> None:
    [row] = json.loads(dead("list", "--json").stdout)
    assert (row["queue"], row["messages"]) == ("dead.inputs.fraud.1", 4)
    assert row["reasons"] == {"attempts": 3, "unreadable": 1}
    text = dead("list").stdout
    for word in ("dead.inputs.fraud.1", "4", "attempts 3, unreadable 1", "died"):
        assert word in text


@pytest.mark.parametrize("words", [("--queue", "fraud@1"), ("--endpoint", "shop"), ("--model", "fraud@1")])
def test_a_list_can_be_filtered_by_queue_endpoint_and_model(words: tuple[str, str], dead: Run) -> None:
    assert len(json.loads(dead("list", "--json", *words).stdout)) == 1


def test_a_list_with_a_limit_prints_the_number_of_other_messages(dead: Run) -> None:
    done = dead("list", "--limit", "3", "--json")
    [row] = json.loads(done.stdout)
    assert (row["messages"], row["looked at"]) == (4, 3)
    assert "1 more were not read" in done.stderr


def test_show_prints_the_request_and_the_reason_of_each_letter(dead: Run, uids: list[str]) -> None:
    letters = {letter["ids"][0]: letter for letter in json.loads(dead("show", "fraud@1", "--json").stdout)}
    letter = letters[uids[0]]
    assert (letter["reason"], letter["attempts"], letter["from"].endswith("inputs.fraud.1")) == ("attempts", 3, True)
    [request] = letter["requests"]
    assert (request["endpoint"], request["arm"], request["model"], request["version"]) == ("shop", "v1", "fraud", 1)
    assert request["head"] == '{"inputs":[]}'
    text = dead("show", "inputs.fraud.1", "--reason", "attempts").stdout
    assert all(uid in text for uid in uids)
    assert "unreadable" not in text


def test_raw_writes_the_original_bytes_of_a_body(dead: Run, uids: list[str]) -> None:
    assert dead("show", "fraud@1", "--raw", uids[1]).stdout == '{"inputs":[]}'
    done = dead("show", "fraud@1", "--raw", uids[1][:-1] + "x")
    assert done.returncode == 2
    assert "did you mean" in done.stderr


def test_a_dry_run_changes_nothing(dead: Run) -> None:
    for command in ("replay", "purge"):
        done = dead(command, "fraud@1", "--reason", "attempts", "--dry-run")
        assert (done.returncode, f"would {command} 3, skipped 0, refused 0; 1 not chosen" in done.stdout) == (0, True)
    assert json.loads(dead("list", "--json").stdout)[0]["messages"] == 4


@pytest.mark.parametrize("command", ["replay", "purge"])
def test_without_a_terminal_and_yes_nothing_is_changed(command: str, dead: Run) -> None:
    done = dead(command, "fraud@1")
    assert done.returncode == 2
    assert "add --yes" in " ".join(done.stderr.split())
    assert json.loads(dead("list", "--json").stdout)[0]["messages"] == 4


def test_replay_and_purge_of_all_letters_leave_an_empty_list(dead: Run, uids: list[str]) -> None:
    done = dead("replay", "fraud@1", "--uid", uids[0], "--uid", uids[1], "--deadline", "1m", "--yes")
    assert "replayed 2, skipped 0, refused 0; 2 not chosen" in done.stdout
    assert "replayed 1" in dead("replay", "fraud@1", "--endpoint", "shop", "--yes").stdout
    assert "purged 1" in dead("purge", "fraud@1", "--yes").stdout
    assert dead("list").stdout == "no dead letters\n"
    assert "nothing to show" in dead("show", "fraud@1").stdout


def test_older_than_does_not_choose_younger_letters(dead: Run) -> None:
    done = dead("replay", "fraud@1", "--older-than", "1h", "--dry-run")
    assert "would replay 0, skipped 0, refused 0; 4 not chosen" in done.stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("show", "fraud@2"), "dead queue 'dead.inputs.fraud.2' is not known; did you mean 'dead.inputs.fraud.1'?"),
        (("show", "zzz"), "known: dead.inputs.fraud.1"),
        (("list", "--endpoint", "shpo"), "endpoint 'shpo' is not known; did you mean 'shop'?"),
        (("list", "--model", "fraud@7"), "model 'fraud@7' is not known; did you mean 'fraud@1'?"),
        (("list", "--model", "a", "--queue", "b"), "give one of them"),
        (("replay", "fraud@1", "--older-than", "5"), "--older-than: '5' is not a duration"),
        (("replay", "fraud@1", "--deadline", "soon", "--yes"), "--deadline: 'soon' is not a duration"),
        (("purge", "fraud@1", "--uid", "nobody", "--yes"), "in dead.inputs.fraud.1 'nobody' is not known"),
    ],
)
def test_an_error_names_the_unknown_thing_and_known_ones(words: tuple[str, ...], text: str, dead: Run) -> None:
    done = dead(*words)
    assert done.returncode == 2
    assert text in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_refused_letters_are_exit_status_1(tmp_path: Path, dead: Run) -> None:
    async def remove() -> None:
        queue = json.loads(dead("show", "fraud@1", "--json").stdout)[0]["from"]
        async with Installation.at(tmp_path / "millrace.yaml").broker() as broker:
            await broker.delete(queue)

    asyncio.run(remove())
    done = dead("replay", "fraud@1", "--yes")
    assert done.returncode == 1
    assert "replayed 0, skipped 0, refused 4" in done.stdout
    assert "there is no queue" in done.stderr
