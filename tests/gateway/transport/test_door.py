"""The door counts connections and bodies, makes room in order, and logs its refusals."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.settings import Gateway, size
from gateway.transport.door import (
    ENDED_AT_ONCE,
    LOG_EVERY_S,
    SILENT_S,
    WAYS_OUT,
    ConnectionPhase,
    Door,
    DoorLimits,
    RefusalReason,
)

PAGE = Path(__file__).parents[3] / "docs/gateway.md"
FEW = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from gateway.transport.door import connections_limit
print(connections_limit({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@dataclass(eq=False)
class Client:
    """A connection that only records its end."""

    phase: ConnectionPhase
    since_s: float
    due_s: float = math.inf
    read_by_s: float = math.inf
    answering: bool = False
    ended: str = ""

    def expire(self) -> None:
        self.ended = "expired"

    def end_unread(self) -> None:
        self.ended = "unread"

    def displace(self) -> None:
        self.ended = "displaced"

    def drop_body(self) -> None:
        self.ended = "dropped"

    def is_answering(self) -> bool:
        return self.answering


def door_of(*clients: Client, **limits: Any) -> Door:
    door = Door(DoorLimits(**limits), lambda reason: None)
    door.connections.update(clients)
    return door


def test_silent_connections_are_displaced_before_idle_ones_and_slow_bodies_last() -> None:
    silent, head, idle = (
        Client(ConnectionPhase.SILENT, 2.0),
        Client(ConnectionPhase.HEAD, 1.0),
        Client(ConnectionPhase.IDLE, 0.0),
    )
    slow, fresh = Client(ConnectionPhase.BODY, 0.0), Client(ConnectionPhase.BODY, 1e18)
    waiting, pipelined = Client(ConnectionPhase.ANSWER, 0.0), Client(ConnectionPhase.HEAD, 0.0, answering=True)
    door = door_of(waiting, pipelined, fresh, slow, idle, silent, head)
    order: list[object] = []
    for most in (7, 6, 5, 4):
        door.connections_limit = most
        before = set(door.connections)
        assert not door.is_full()
        order += before - door.connections
    assert order == [head, silent, idle, slow]
    door.connections_limit = 3
    assert door.is_full()
    assert [it.ended for it in (waiting, pipelined, fresh)] == ["", "", ""]


def test_a_new_connection_is_not_displaced_before_it_could_send() -> None:
    new = Client(ConnectionPhase.SILENT, time.monotonic())
    door = door_of(new, connections=1)
    assert door.is_full()
    new.since_s -= 2 * SILENT_S
    time.sleep(0.01)  # a fruitless search is not repeated at once
    assert not door.is_full()
    assert new.ended == "displaced"


def test_all_connections_beyond_the_limit_make_room_at_once() -> None:
    silent = [Client(ConnectionPhase.SILENT, 0.0) for _ in range(24)]
    door = door_of(*silent, connections=16)
    assert not door.is_full()
    assert len(door.connections) == 15


def test_a_connection_beyond_the_limit_has_a_place_once_others_are_quiet() -> None:
    first, late = Client(ConnectionPhase.ANSWER, 0.0), Client(ConnectionPhase.HEAD, 0.0)
    door = door_of(first, late, connections=1)
    assert not door.has_place(late)
    first.phase = ConnectionPhase.IDLE
    time.sleep(0.01)
    assert door.has_place(late)
    assert (first.ended, late.ended) == ("displaced", "")


def test_a_sweep_ends_only_some_connections_at_once() -> None:
    late = [Client(ConnectionPhase.HEAD, 0.0, due_s=0.0) for _ in range(ENDED_AT_ONCE + 1)]
    unread = [Client(ConnectionPhase.ANSWER, 0.0, read_by_s=0.0) for _ in range(ENDED_AT_ONCE + 1)]
    door = door_of(*late, *unread)
    assert door.sweep()
    assert [sum(it.ended != "" for it in them) for them in (late, unread)] == [ENDED_AT_ONCE] * 2


def test_the_oldest_incomplete_bodies_end_until_the_rest_is_within_the_limit() -> None:
    first, second, third = (Client(ConnectionPhase.BODY, 0.0) for _ in range(3))
    door = door_of(first, second, third, arriving_bytes=100)
    door.arrive(first, 40)
    door.arrive(second, 40)
    door.arrive(first, 10)
    door.arrive(third, 60)
    assert [it.ended for it in (first, second, third)] == ["dropped", "", ""]
    assert door.arriving_bytes == 100
    door.arrived(third)
    door.arrived(third)
    assert (door.arriving_bytes, list(door.arriving)) == (40, [second])


def test_a_sweep_ends_late_connections_and_logs_at_intervals(caplog: pytest.LogCaptureFixture) -> None:
    late, unread = Client(ConnectionPhase.HEAD, 0.0, due_s=0.0), Client(ConnectionPhase.ANSWER, 0.0, read_by_s=0.0)
    fine = Client(ConnectionPhase.IDLE, 0.0)
    door = door_of(late, unread, fine)
    door.note(RefusalReason.HEAD_TOO_LARGE)
    door.note(RefusalReason.HEAD_TOO_LARGE)
    door.sweep()
    door.note(RefusalReason.HEAD_TOO_LARGE)
    door.sweep()
    assert [it.ended for it in (late, unread, fine)] == ["expired", "unread", ""]
    lines = [record.getMessage() for record in caplog.records if "head_limit" in record.getMessage()]
    assert lines == ["the door ended 2 connections or requests: headers larger than gateway.head_limit"]
    assert LOG_EVERY_S > 1


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "printed"),
    [(256, 256, 0, "160 256"), (256, 1024, 0, "928 1024"), (256, 256, 100, "100 256"), (256, 256, 10_000, "160 256")],
)
def test_descriptors_are_kept_for_the_gateway_itself_and_for_health(
    soft: int, hard: int, wanted: int, printed: str
) -> None:
    program = FEW.format(soft=soft, hard=hard, wanted=wanted)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed


def test_the_docs_have_every_limit_with_its_default_and_every_reason() -> None:
    page = PAGE.read_text()
    defaults = Gateway()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    settings = {name for name in Gateway.model_fields if name.endswith(("_limit", "_timeout"))} - {"results_limit"}
    assert set(rows) == settings
    for name, text in rows.items():
        written = size(text) if not text.endswith("s") else float(text[:-1])
        assert getattr(defaults, name) == written, name
    assert {why.name.lower() for why in RefusalReason} <= set(re.findall(r"`(\w+)`", page))
    assert set(WAYS_OUT) == set(RefusalReason)
    for name in re.findall(r"gateway\.(\w+)", " ".join(WAYS_OUT.values())):
        assert name in Gateway.model_fields
