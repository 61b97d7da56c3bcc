"""The main of each part: builds it from the settings and runs it. The only module that depends on all packages."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from broker.protocol.ids import now_us
from broker.records.agreement import Agreement, key_hash
from deploy.hosts import reached_at
from deploy.processes.native import pools, replica_environment
from deploy.processes.shell import Context, context_of, run_part, serve_pages
from deploy.settings import Settings, assignment_key, child_environment, own_environment, start_again_with
from deploy.wiring import Installation

if TYPE_CHECKING:  # each process imports only the packages that it runs
    from processors.engine import Engine

# The executor's thread needs the GIL after every torch call while the event loop is busy. With Python's default of 5 ms
# it would wait longer than it works.
SWITCH_INTERVAL_S = 0.0005


def run_installed_part(installation: Installation, part: str, *, parent: int | None) -> int:
    """Run one part in this process until a signal or the end of `parent` stops it; returns the exit status."""
    start_again_with(pools(1))
    port = installation.settings.metrics.port if part == "monitors" else 0
    return run_part(
        part,
        functools.partial(_MAINS[part], installation),
        host=installation.settings.metrics.host,
        port=port,
        parent=parent,
        grace_s=installation.grace_s,
    )


def run_replica(installation: Installation, model: str, version: int, *, parent: int | None) -> int:
    """Run one replica of a model version in this process; returns the exit status."""
    start_again_with(replica_environment(installation.settings.processors.threads))

    async def main(context: Context) -> None:
        await serve_replica(installation, context, model, version)

    grace_s = installation.settings.processors.grace
    return run_part(f"replica-{model}-{version}", main, parent=parent, grace_s=grace_s)


async def serve_replica(installation: Installation, context: Context, model: str, version: int) -> None:
    """Serve a model version until `context.stop` is set."""
    from processors.replica import Replica, ReplicaSpec

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    settings = installation.settings
    spec = ReplicaSpec(
        instance=context.instance,
        repository=settings.repository_folder,
        model=model,
        version=version,
        kept_configs=settings.data_folder / "configs",
        device=settings.processors.device,
        threads=settings.processors.threads,
        grace_s=settings.processors.grace,
        limits=installation.queue_limits(),
        metrics_port=context.metrics_port,
    )
    async with installation.broker() as broker:
        context.ready = True
        await Replica(broker, spec, context.registry).run(context.stop)


async def serve_in_ray(path: str, folder: str, model: str, version: int, stop: asyncio.Event) -> None:
    """Run one replica inside a Ray actor, which has its own event loop and signal handlers.

    `folder` is the current folder of the processors part. The actor changes to it, if it exists on this machine, so
    that relative paths mean the same.
    """
    with contextlib.suppress(OSError):
        os.chdir(folder)
    installation = Installation.at(Path(path))
    context = context_of(f"replica-{model}-{version}", stop)
    server = serve_pages(context, installation.settings.metrics.host, 0)
    try:
        await serve_replica(installation, context, model, version)
    finally:
        server.shutdown()


async def _run_gateway(installation: Installation, context: Context) -> None:
    from gateway.core.core import GatewaySettings
    from gateway.results.sqlite_store import SqliteResults
    from gateway.run import run
    from gateway.transport.door import DoorLimits

    gateway, key = installation.settings.gateway, assignment_key(installation.settings)
    door = DoorLimits(
        head_bytes=gateway.head_limit,
        target_bytes=gateway.target_limit,
        head_s=gateway.head_timeout,
        body_s=gateway.body_timeout,
        idle_s=gateway.idle_timeout,
        arriving_bytes=gateway.arriving_limit,
        bodies_bytes=gateway.bodies_limit,
        connections=gateway.connections_limit,
    )
    settings = GatewaySettings(
        instance=context.instance,
        host=gateway.host,
        port=gateway.http_port,
        body_limit_bytes=gateway.body_limit,
        pending_limit=gateway.pending_limit,
        results_limit_bytes=gateway.results_limit,
        grace_s=gateway.grace,
        metrics_port=context.metrics_port,
        strict_readiness=gateway.strict_readiness,
        compress_above_bytes=gateway.compress_above,
        door=door,
        agreement=_agreement(installation.settings, key),
    )
    results = SqliteResults(installation.settings.data_folder / "results.db", ttl_s=gateway.results_ttl)
    async with installation.broker() as broker:
        await run(broker, settings, key, results, context.registry, context.stop)


async def _run_router(installation: Installation, context: Context) -> None:
    from router.service.run import RouterSettings, run

    key = assignment_key(installation.settings)
    settings = RouterSettings(
        instance=context.instance,
        metrics_port=context.metrics_port,
        limits=installation.queue_limits(),
        agreement=_agreement(installation.settings, key),
    )
    async with installation.broker() as broker:
        await run(broker, settings, key, context.registry, context.stop)


async def _run_learner(installation: Installation, context: Context) -> None:
    from router.learning.declared import read_experiment
    from router.learning.service import run
    from router.learning.settings import LearnerSettings

    settings = LearnerSettings(
        instance=context.instance, tick_s=installation.settings.learner.tick, metrics_port=context.metrics_port
    )
    ledger = installation.settings.data_folder / "learner.db"
    async with installation.broker() as broker:
        await run(broker, settings, ledger, read_experiment, context.registry, context.stop)


async def _run_processors(installation: Installation, context: Context) -> None:
    from processors.catalog import CatalogSettings, run

    settings = installation.settings
    catalog = CatalogSettings(
        instance=context.instance,
        repository=settings.repository_folder,
        poll_s=settings.repository.poll,
        doubt_s=settings.repository.doubt,
        replicas=settings.processors.replicas.min,
        limits=installation.queue_limits(),
        metrics_port=context.metrics_port,
    )
    async with installation.broker() as broker:
        await run(broker, _engine(installation), catalog, context.stop)


async def _run_monitors(installation: Installation, context: Context) -> None:
    from monitors.known import KnownVersions
    from monitors.run import MonitorSettings, run

    known = KnownVersions(host=reached_at(installation.settings.metrics.host))
    context.pages["/targets"] = lambda: ("application/json", json.dumps(known.targets()).encode())
    settings = MonitorSettings(
        instance=context.instance,
        folder=installation.settings.data_folder / "monitors",
        metrics_port=context.metrics_port,
        max_series=installation.settings.monitors.prometheus.max_series,
    )
    async with installation.broker() as broker:
        await run(broker, settings, context.registry, context.stop, known)


def _agreement(settings: Settings, key: bytes) -> Agreement:
    limits = settings.broker.limits
    return Agreement(
        key=key_hash(key, settings.prefix),
        is_key_given=bool(settings.secrets.assignment.get_secret_value()),
        started_us=now_us(),
        limit_requests=limits.requests,
        limit_bytes=limits.size,
    )


def _engine(installation: Installation) -> Engine:
    processors = installation.settings.processors
    native = replica_environment(processors.threads)
    if processors.engine == "ray":
        from processors.engine_ray import RayEngine

        work = functools.partial(serve_in_ray, str(installation.path), str(Path.cwd()))
        name = installation.settings.prefix.rstrip(".").replace(".", "-")
        environment = own_environment(installation.overrides, native)
        return RayEngine(
            work,
            name=name,
            grace_s=processors.grace,
            environment=environment,
            gpus=processors.gpus,
            empty_folder=installation.settings.data_folder / "ray",
        )
    from processors.engine_process import ProcessEngine

    def command(model: str, version: int, _: int) -> Sequence[str]:
        return installation.part_command("replica", model, str(version))

    return ProcessEngine(
        command, grace_s=processors.grace, environment=child_environment(installation.overrides, native)
    )


_MAINS: Mapping[str, Callable[[Installation, Context], Awaitable[None]]] = {
    "gateway": _run_gateway,
    "router": _run_router,
    "learner": _run_learner,
    "processors": _run_processors,
    "monitors": _run_monitors,
}
