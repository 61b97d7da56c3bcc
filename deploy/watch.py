"""Watches `endpoints/*.yaml` and publishes what is declared there; changing a file restarts nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import yaml

from broker.base import Broker
from broker.declared import digest, endpoint_declared, endpoint_withdrawn, read_declared
from broker.endpoint import Endpoint, read_endpoint
from broker.errors import Misconfigured, TryAgain, Unavailable
from broker.following import Following
from broker.messages import Record
from deploy.settings import yaml_problem
from router.policy_config import read_policy

log = logging.getLogger(__name__)

EVERY_S = 1.0


def read_file(path: Path) -> list[Endpoint]:
    """Read the declarations in one file, one a YAML document; raises Misconfigured for these and for their policies."""
    try:
        documents = [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document is not None]
    except UnicodeDecodeError as exc:
        raise Misconfigured(f"{path}: this is not UTF-8: {exc.reason}") from exc
    except yaml.YAMLError as exc:
        raise Misconfigured(f"{path}: this is not YAML: {yaml_problem(exc)}") from exc
    except OSError as exc:
        raise Misconfigured(f"{path} cannot be read: {exc.strerror}") from exc
    endpoints = [read_endpoint(document, source=path.name) for document in documents]
    for endpoint in endpoints:
        _check_policy(endpoint, path)
    return endpoints


def _check_policy(endpoint: Endpoint, path: Path) -> None:
    """Refuse a policy that routers could not read: they would answer nothing for the endpoint."""
    try:
        read_policy(endpoint)
    except Misconfigured as exc:
        raise Misconfigured(f"{path.name}: {exc}") from exc


class Declarations:
    """What the `declared` log says of endpoints now, with the hash of each."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.digests: dict[str, str] = {}
        self.endpoints: dict[str, Endpoint] = {}

    async def read(self) -> None:
        """Read the log from its beginning to its present end."""
        await self._broker.declare(self._broker.channels.declared)
        following = Following(self._broker, self._broker.channels.declared, 0, self._fold)
        task = asyncio.create_task(following.run(), name="declared")
        await following.caught_up.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def apply(self, endpoint: Endpoint, author: str) -> bool:
        """Declare an endpoint, unless that is what is declared already; tells whether anything changed."""
        if self.digests.get(endpoint.endpoint) == digest(endpoint):
            return False
        await self._append(endpoint_declared(endpoint, author))
        self.digests[endpoint.endpoint] = digest(endpoint)
        self.endpoints[endpoint.endpoint] = endpoint
        return True

    async def withdraw(self, endpoint: str, author: str) -> None:
        """Take an endpoint back."""
        await self._append(endpoint_withdrawn(endpoint, author))
        self.digests.pop(endpoint, None)
        self.endpoints.pop(endpoint, None)

    async def _append(self, record: bytes) -> None:
        outcomes = await self._broker.append(self._broker.channels.declared, [record])
        if not outcomes[0].safe:
            raise Unavailable(f"the declaration was not taken: {outcomes[0]}")

    def _fold(self, record: Record) -> None:
        declared = read_declared(record)
        if declared is None:
            return
        if declared.declaration is None:
            self.digests.pop(declared.endpoint, None)
            self.endpoints.pop(declared.endpoint, None)
        else:
            self.digests[declared.endpoint] = declared.digest
            self.endpoints[declared.endpoint] = declared.declaration


class Watch:
    """Keeps the log at what the files say. Only endpoints that came from files are withdrawn when their file goes."""

    def __init__(self, broker: Broker, folder: Path, pattern: str) -> None:
        self._declarations = Declarations(broker)
        self._folder = folder
        self._pattern = pattern
        self._seen: dict[Path, float] = {}
        self._by_file: dict[Path, set[str]] = {}

    async def run(self) -> None:
        """Watch for ever."""
        await self._declarations.read()
        while True:
            try:
                await self.look()
            except TryAgain as exc:
                log.warning("declarations wait for the broker: %s", exc)
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Publish what changed since the last look."""
        files = await asyncio.to_thread(self._files)
        for path, changed in files.items():
            if self._seen.get(path) != changed:
                await self._publish(path)
                self._seen[path] = changed
        for path in [path for path in self._seen if path not in files]:
            for endpoint in self._by_file.get(path, set()):
                log.info("endpoint %s is withdrawn: %s is gone", endpoint, path.name)
                await self._declarations.withdraw(endpoint, f"file {path.name}")
            self._by_file.pop(path, None)
            self._seen.clear()  # another file may declare what this one did

    async def _publish(self, path: Path) -> None:
        try:
            declared = read_file(path)
            self._check_owner(path, declared)
        except Misconfigured as exc:
            log.error("%s; what was declared before stays", exc)  # noqa: TRY400 - a person mends the file
            return
        for endpoint in declared:
            if await self._declarations.apply(endpoint, f"file {path.name}"):
                log.info("endpoint %s is declared by %s", endpoint.endpoint, path.name)
        self._by_file[path] = {endpoint.endpoint for endpoint in declared}

    def _check_owner(self, path: Path, declared: list[Endpoint]) -> None:
        for other, names in self._by_file.items():
            for endpoint in declared:
                if other != path and endpoint.endpoint in names:
                    raise Misconfigured(f"{path}: endpoint {endpoint.endpoint} is declared by {other.name} too")

    def _files(self) -> Mapping[Path, float]:
        return {path: path.stat().st_mtime for path in sorted(self._folder.glob(self._pattern)) if path.is_file()}
