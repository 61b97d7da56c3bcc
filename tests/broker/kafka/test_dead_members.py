"""Members of a group that have ended are distinguished from living ones, and leave the group at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.kafka import dead_members as members
from broker.kafka.adapter import KafkaBroker
from broker.kafka.dead_members import enter, is_dead, leave
from broker.messages import Message
from tests.contract.installation import Installation
from tests.contract.steps import bodies, take
from tests.servers import ROOT, kafka_url

PRINT_NAME = "import time; from broker.kafka.dead_members import enter; print(enter(), flush=True); time.sleep(600)"


@contextmanager
def member() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process with a member; yield the process and the member's client id."""
    process = subprocess.Popen([sys.executable, "-c", PRINT_NAME], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_stopped_process_is_alive_and_a_killed_one_is_dead_even_as_a_zombie() -> None:
    with member() as (process, name):
        assert not is_dead(name)
        process.send_signal(signal.SIGSTOP)
        assert not is_dead(name)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert is_dead(name)
        process.wait()
        assert is_dead(name)


def test_a_process_that_reuses_the_pid_of_a_former_one_is_another() -> None:
    with member() as (process, name):
        head, started, number = name.rsplit("-", 2)
        assert is_dead(f"{head}-{int(started) - 1}-{number}")
        assert process.poll() is None


def test_a_consumer_of_this_process_is_dead_after_it_was_stopped() -> None:
    one, other = enter(), enter()
    assert not is_dead(one)
    assert not is_dead(other)
    leave(one)
    assert is_dead(one)
    assert not is_dead(other)
    leave(other)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "millrace",
        "rdkafka",
        "millrace-0123456789abcdef-1-1-1",
        "millrace-{here}-x-1-1",
        "millrace-{here}-1-1",
        "millrace-{here}-1-1-1\n",
        "millrace-{here}--1-1-1",
    ],
)
def test_members_of_other_programs_and_machines_are_not_called_dead(name: str) -> None:
    mine = enter()
    leave(mine)
    assert not is_dead(name.format(here=mine.split("-")[1]))


def test_a_pid_that_no_process_can_have_is_dead() -> None:
    mine = enter()
    leave(mine)
    assert is_dead(f"millrace-{mine.split('-')[1]}-9999999999-1-1")


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Path]:
    """A copy of `/proc` that a test can change."""
    mine = tmp_path / str(os.getpid())
    (mine / "ns").mkdir(parents=True)
    (tmp_path / "self").symlink_to(mine.name)
    for kind in ("pid", "time"):
        (mine / "ns" / kind).symlink_to(f"{kind}:[1]")
    (mine / "stat").write_text((Path("/proc/self/stat")).read_text("ascii"), "ascii")
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("one", "ascii")
    members.here.cache_clear()
    yield tmp_path
    members.here.cache_clear()


def here(proc: Path) -> str:
    """Return the machine id of this process, computed again."""
    members.here.cache_clear()
    name = enter(proc=proc)
    leave(name)
    return name.split("-")[1]


def test_another_host_boot_container_or_clock_has_another_machine_id(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [here(proc)]
    for kind in ("pid", "time"):
        (proc / "self/ns" / kind).unlink()
        (proc / "self/ns" / kind).symlink_to(f"{kind}:[2]")
        found.append(here(proc))
    (proc / "sys/kernel/random/boot_id").write_text("two", "ascii")
    found.append(here(proc))
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    found.append(here(proc))
    assert len(set(found)) == 5


def test_a_process_that_sees_foreign_pids_has_no_machine_id(proc: Path) -> None:
    (proc / "self").unlink()
    (proc / "self").symlink_to("1")
    (proc / "1").symlink_to(str(os.getpid()))
    members.here.cache_clear()
    assert enter(proc=proc) == "millrace"


def test_a_process_without_readable_state_is_not_called_dead(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = f"millrace-{here(proc)}-{os.getppid()}"
    assert not is_dead(f"{head}-1-1", proc=proc)  # it runs, and this `/proc` has no `stat` file of it
    monkeypatch.setattr("os.kill", refused)
    assert not is_dead(f"millrace-{here(proc)}-{os.getpid()}-1-1", proc=proc)  # a process of another user


def refused(pid: int, number: int) -> None:
    raise PermissionError


async def test_dead_members_leave_their_group_and_living_ones_stay() -> None:
    async with Installation(kafka_url(), user=None) as installation:
        broker = await installation.broker()
        assert isinstance(broker, KafkaBroker)
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(5)])
        child = installation.child(queue, 5)
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == "held\n"
        assert await broker.cluster.groups.dismiss(queue, is_dead) == 0
        child.kill()
        child.wait()
        assert await broker.cluster.groups.dismiss(queue, is_dead) == 1
        assert await broker.cluster.groups.dismiss(queue, is_dead) == 0
        taken = await take(broker.consume(queue, 10), 5)
        assert sorted(bodies(taken)) == [b"0", b"1", b"2", b"3", b"4"]
        assert all(delivery.came_back for delivery in taken)
        assert await broker.cluster.groups.dismiss(queue, is_dead) == 0
