"""Runs an installation while a coroutine uses it, as `millrace up` does, and cleans up the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from deploy.demo.http_half import Address
from deploy.demo.progress import Steps
from deploy.demo.workspace import DemoWorkspace
from deploy.processes.shell import stop_on_signals, write_logs
from deploy.supervision.supervisor import Supervisor, wait_until_ready
from deploy.wiring import Installation

READY_WITHIN_S = 150.0

_T = TypeVar("_T")


async def serve_while(workspace: DemoWorkspace, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Run all parts until `work` is done, and return its result.

    If the parts end first, raises their error, or returns None after Ctrl-C.
    """
    stop = stop_on_signals()
    with workspace.log.open("a") as log:
        write_logs("demo", log)
        supervisor = Supervisor(workspace.installation, workspace.overrides, output=log)
        running = asyncio.create_task(supervisor.run(stop), name="supervisor")
        try:
            return await _while(running, work)
        finally:
            stop.set()
            await asyncio.gather(running, return_exceptions=True)


async def _while(running: asyncio.Task[None], work: Coroutine[Any, Any, _T]) -> _T | None:
    task = asyncio.ensure_future(work)
    await asyncio.wait((task, running), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await running
    return None


def gateway_of(installation: Installation) -> Address:
    """The host and port of an installation's gateway."""
    return installation.settings.gateway.host, installation.settings.gateway.http_port


async def wait_for_arms(steps: Steps, installation: Installation, arms: Mapping[str, Iterable[str]]) -> None:
    """Wait until the arms of all endpoints are ready; `arms` are by endpoint."""
    host, port = gateway_of(installation)
    engine = installation.settings.processors.engine
    with steps.step(f"starting gateway, router, learner, monitors and processors (engine {engine})"):
        for path in [f"/v2/models/{name}/versions/{arm}/ready" for name, of in arms.items() for arm in of]:
            await wait_until_ready(port, host, READY_WITHIN_S, path=path)


async def clean(installation: Installation, models: Iterable[str], endpoints: Iterable[str]) -> None:
    """Delete the channels of these models and endpoints from a shared broker; the embedded one is in the folder."""
    if installation.settings.broker_url.startswith("sqlite:"):
        return
    async with installation.broker() as broker:
        channels = broker.channels
        inputs = [channels.inputs(model, 1) for model in models]
        kinds = (channels.requests, channels.results, channels.events)
        ends = [kind(name) for kind in kinds for name in (*endpoints, *models)]
        lanes = [lane(queue) for lane in (channels.retry, channels.dead) for queue in inputs]
        for channel in (*inputs, *lanes, *ends, channels.declared, channels.status):
            await broker.delete(channel)
