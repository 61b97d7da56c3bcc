"""Waiting for the gateway, and parts that end with wrong settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import Unavailable
from deploy.hosts import free_port
from deploy.processes.shell import MISCONFIGURED
from deploy.supervision.supervisor import Supervisor, wait_until_ready
from deploy.wiring import Installation


async def test_a_stop_ends_the_wait_for_the_gateway_without_an_error() -> None:
    running = iter([True, True, False])
    await wait_until_ready(free_port(), "127.0.0.1", 173.0, lambda: next(running))


async def test_a_gateway_that_is_not_ready_in_time_is_an_error_with_the_time_and_the_reason() -> None:
    with pytest.raises(Unavailable, match="is not ready after 0 s: nothing listens there yet"):
        await wait_until_ready(free_port(), "127.0.0.1", 0.0)


class EndedProcess:
    """A process that has ended with an exit status."""

    def __init__(self, code: int) -> None:
        self.returncode = code


@pytest.mark.parametrize("was_ready", [False, True])
def test_a_part_with_wrong_settings_ends_only_an_installation_that_was_never_ready(
    tmp_path: Path, was_ready: bool
) -> None:
    supervisor = Supervisor(Installation.at(tmp_path / "millrace.yaml"), {})
    supervisor.was_ready = was_ready
    child = supervisor.children["router"]
    child.process = EndedProcess(MISCONFIGURED)  # type: ignore[assignment]
    if was_ready:
        supervisor._note_death(child, 0.0)  # noqa: SLF001 - no part is started
        assert (child.process, child.not_before_s > 0.0) == (None, True)
    else:
        with pytest.raises(Unavailable, match="router cannot start: the reason is in its log lines above"):
            supervisor._note_death(child, 0.0)  # noqa: SLF001 - as above
