"""The engine that scales out: each model version is a Ray Serve application. Only wrapping: replicas pull themselves.

Ray Serve's own request path costs milliseconds of CPU a request, so nothing goes through it; its proxy is off. It
places replicas, restarts them and stops them. It gives no sign before a stop but `__del__`, so a hard kill has to be
safe: what a replica held comes back by redelivery.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import ray
from ray import serve

from broker.support.private_files import make_private_folder
from processors.engine import Engine, ReplicaTarget

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 100 * 1024 * 1024
HEALTH_EVERY_S = 2.0
HEALTH_WITHIN_S = 10.0
MARGIN_S = 5.0

Serve = Callable[[str, int, asyncio.Event], Awaitable[None]]
"""(model, version, stop) to the work of one replica; picklable, importable where replicas run."""


class RayReplica:
    """One replica inside a Ray Serve actor: its work is a task on the actor's loop."""

    def __init__(self, work: Serve, model: str, version: int, grace_s: float) -> None:
        self._grace_s = grace_s
        self._stop = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(_run(work, model, version, self._stop))

    def check_health(self) -> None:
        """Fail once the work has ended: Ray Serve then replaces the replica."""
        if self._task.done():
            error = None if self._task.cancelled() else self._task.exception()
            raise RuntimeError(f"the replica's work has ended: {error}")

    async def __del__(self) -> None:
        """Finish what is held. Runs also when `__init__` failed half-way."""
        task = getattr(self, "_task", None)
        if task is not None:
            self._stop.set()
            await asyncio.wait([task], timeout=self._grace_s)


async def _run(work: Serve, model: str, version: int, stop: asyncio.Event) -> None:
    await work(model, version, stop)


class RayEngine(Engine):
    """Runs replicas as Ray Serve applications named `<name>-<model>-<version>`.

    Ray puts the folder in which it is started at the head of the import path of its workers: it is started in
    `empty_folder`, where nothing can stand in for a module.
    """

    def __init__(
        self,
        work: Serve,
        *,
        name: str,
        grace_s: float,
        environment: Mapping[str, str],
        empty_folder: Path,
        gpus: float = 0.0,
    ) -> None:
        self._work = work
        self._name = name
        self._grace_s = grace_s
        self._environment = dict(environment)
        self._empty_folder = empty_folder
        self._gpus = gpus
        self._running: dict[tuple[str, int], ReplicaTarget] = {}
        self._mine = False

    async def open(self) -> None:
        """Join the cluster at RAY_ADDRESS, or start one on this machine."""
        await asyncio.to_thread(self._open)

    async def want(self, wanted: list[ReplicaTarget]) -> None:
        """See the port."""
        now = {(one.model, one.version): one for one in wanted}
        for key in [key for key in self._running if key not in now]:
            await asyncio.to_thread(serve.delete, self._application(*key))
            del self._running[key]
        for key, one in now.items():
            if self._running.get(key) != one:
                await asyncio.to_thread(self._deploy, one)
                self._running[key] = one

    async def watch(self) -> None:
        """Ray Serve's controller restarts what dies."""

    async def close(self) -> None:
        """See the port."""
        for key in list(self._running):
            await asyncio.to_thread(serve.delete, self._application(*key))
        self._running.clear()
        if self._mine:
            await asyncio.to_thread(_end_cluster)

    def _open(self) -> None:
        self._mine = not ray.is_initialized()
        make_private_folder(self._empty_folder)
        with contextlib.chdir(self._empty_folder):
            ray.init(
                namespace=self._name,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                ignore_reinit_error=True,
                object_store_memory=OBJECT_STORE_BYTES,
                runtime_env={"env_vars": self._environment},
            )
        serve.start(proxy_location="Disabled")

    def _deploy(self, one: ReplicaTarget) -> None:
        deployment = serve.deployment(
            name="replica",
            num_replicas=one.replicas,
            ray_actor_options={"num_cpus": 0, "num_gpus": self._gpus},
            health_check_period_s=HEALTH_EVERY_S,
            health_check_timeout_s=HEALTH_WITHIN_S,
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=self._grace_s + MARGIN_S,
        )(RayReplica)
        application = deployment.bind(self._work, one.model, one.version, self._grace_s)
        serve.run(application, name=self._application(one.model, one.version), route_prefix=None)
        log.info("Ray Serve runs %d replica(s) of %s@%d", one.replicas, one.model, one.version)

    def _application(self, model: str, version: int) -> str:
        return f"{self._name}-{model}-{version}"


def _end_cluster() -> None:
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()
