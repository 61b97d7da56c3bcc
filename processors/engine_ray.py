"""The engine for several machines: each model version is a Ray Serve application, whose replicas take from the queue.

Ray Serve's own request path costs milliseconds of CPU per request, so it is not used, and its proxy is off. Ray Serve
places, restarts and stops replicas. The only sign of a stop is `__del__`, so a hard kill must be safe: the requests
that a replica held are redelivered.
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

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 100 * 1024 * 1024
HEALTH_EVERY_S = 2.0
HEALTH_WITHIN_S = 10.0
MARGIN_S = 5.0

Serve = Callable[[str, int, asyncio.Event], Awaitable[None]]
"""Runs one replica of (model, version) until stop; picklable, and importable where replicas run."""


class RayReplica:
    """One replica inside a Ray Serve actor, as a task on the actor's event loop."""

    def __init__(self, work: Serve, model: str, version: int, grace_s: float) -> None:
        self._grace_s = grace_s
        self._stop = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(_run(work, model, version, self._stop))

    def check_health(self) -> None:
        """Raise once the task has ended, so that Ray Serve replaces the replica."""
        if self._task.done():
            error = None if self._task.cancelled() else self._task.exception()
            raise RuntimeError(f"the replica has ended: {error}")

    async def __del__(self) -> None:
        """Finish the held requests. Called also after an `__init__` that failed."""
        task = getattr(self, "_task", None)
        if task is not None:
            self._stop.set()
            await asyncio.wait([task], timeout=self._grace_s)


async def _run(work: Serve, model: str, version: int, stop: asyncio.Event) -> None:
    await work(model, version, stop)


class RayEngine(Engine):
    """Runs replicas as Ray Serve applications named `<name>-<model>-<version>`.

    Ray puts its start folder at the head of the import path of its workers. It is started in `empty_folder`, where no
    file can shadow a module.
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
        self._owns_cluster = False

    async def open(self) -> None:
        """Join the cluster at RAY_ADDRESS, or start one on this machine."""
        await asyncio.to_thread(self._open)

    async def set_targets(self, targets: list[ReplicaTarget]) -> None:
        by_key = {(one.model, one.version): one for one in targets}
        for key in [key for key in self._running if key not in by_key]:
            await asyncio.to_thread(serve.delete, self._application(*key))
            del self._running[key]
        for key, one in by_key.items():
            if self._running.get(key) != one:
                await asyncio.to_thread(self._deploy, one)
                self._running[key] = one

    async def restart_dead(self) -> None:
        """Do nothing: Ray Serve's controller restarts dead replicas."""

    async def close(self) -> None:
        for key in list(self._running):
            await asyncio.to_thread(serve.delete, self._application(*key))
        self._running.clear()
        if self._owns_cluster:
            await asyncio.to_thread(_end_cluster)

    def _open(self) -> None:
        self._owns_cluster = not ray.is_initialized()
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
        logger.info("Ray Serve runs %d replica(s) of %s@%d", one.replicas, one.model, one.version)

    def _application(self, model: str, version: int) -> str:
        return f"{self._name}-{model}-{version}"


def _end_cluster() -> None:
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()
