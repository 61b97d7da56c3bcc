"""Watches the endpoint files and publishes their declarations; changing a file restarts no process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker.base import Broker
from broker.delivery.log_follower import LogFollower
from broker.errors import Misconfigured, NotFound, TryAgain, Unavailable
from broker.messages import Record
from broker.records.declared import digest, endpoint_declared, endpoint_withdrawn
from broker.records.declared_endpoints import DeclaredEndpoints
from broker.records.endpoint import Endpoint, read_endpoint
from deploy.yaml_text import read_yaml
from router.policies.declared import read_policy

logger = logging.getLogger(__name__)

EVERY_S = 1.0
_FILE = "file "


def read_file(path: Path) -> list[Endpoint]:
    """Read the declarations in a file, one for each YAML document; raises Misconfigured for invalid ones."""
    endpoints = [read_endpoint(document, source=path.name) for document in read_yaml(path)]
    for endpoint in endpoints:
        _check_policy(endpoint, path)
    _check_once(endpoints, path)
    return endpoints


def _check_once(endpoints: Sequence[Endpoint], path: Path) -> None:
    """Raise Misconfigured if two documents declare the same endpoint."""
    names = [endpoint.endpoint for endpoint in endpoints]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Misconfigured(
            f"{path.name}: endpoint {twice[0]} is declared twice in this file: keep one of the documents"
        )


def unread_files(folder: Path, pattern: str) -> list[str]:
    """List warnings for files that are not read because they end in .yml where `pattern` has .yaml, or the reverse."""
    stem, dot, suffix = pattern.rpartition(".")
    other = {"yaml": "yml", "yml": "yaml"}.get(suffix)
    if not dot or other is None:
        return []
    return [
        f"{path} is not read: endpoints is {pattern}; name it {path.stem}.{suffix}, or change endpoints"
        for path in sorted(folder.glob(f"{stem}.{other}"))
    ]


def _check_policy(endpoint: Endpoint, path: Path) -> None:
    """Raise Misconfigured for a policy that routers could not read: the endpoint would not be served."""
    try:
        read_policy(endpoint)
    except Misconfigured as exc:
        raise Misconfigured(f"{path.name}: {exc}") from exc


def author_of(path: Path) -> str:
    """Return the author of the declarations in a file."""
    return f"{_FILE}{path}"


def file_of(author: str) -> Path | None:
    """Return the file of an author; None for a declaration that came from elsewhere."""
    return Path(author.removeprefix(_FILE)) if author.startswith(_FILE) else None


class Declarations:
    """The declared endpoints, with the digest and the author of each declaration."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.digests: dict[str, str] = {}
        self._declared = DeclaredEndpoints()
        self.authors: dict[str, str] = {}

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """The declared endpoints by name."""
        return self._declared.by_name

    async def read(self) -> None:
        """Read the log `declared` from its start to its present end; a log that does not exist counts as empty."""
        if not await self._broker.exists(self._broker.channels.declared):
            return
        following = LogFollower(self._broker, self._broker.channels.declared, 0, self._fold)
        task = asyncio.create_task(following.run(), name="declared")
        await following.caught_up.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def apply(self, endpoint: Endpoint, author: str) -> bool:
        """Declare an endpoint unless it is declared so already; returns True if it changed."""
        if self.digests.get(endpoint.endpoint) == digest(endpoint):
            return False
        await self.declare(endpoint, author)
        return True

    def author(self, endpoint: str) -> str:
        """Return the author of an endpoint's declaration; raises NotFound, listing the declared endpoints."""
        if endpoint not in self.authors:
            known = ", ".join(sorted(self.authors)) or "none"
            raise NotFound(f"no endpoint {endpoint!r} is declared; declared: {known}")
        return self.authors[endpoint]

    async def declare(self, endpoint: Endpoint, author: str) -> None:
        """Declare an endpoint, even if the same declaration is on the log already."""
        await self._append(endpoint_declared(endpoint, author))
        self.digests[endpoint.endpoint] = digest(endpoint)
        self._declared.by_name[endpoint.endpoint] = endpoint
        self.authors[endpoint.endpoint] = author

    async def withdraw(self, endpoint: str, author: str) -> None:
        """Withdraw an endpoint."""
        await self._append(endpoint_withdrawn(endpoint, author))
        self._forget(endpoint)

    async def _append(self, record: bytes) -> None:
        await self._broker.declare(self._broker.channels.declared)
        outcomes = await self._broker.append(self._broker.channels.declared, [record])
        if not outcomes[0].safe:
            raise Unavailable(f"the broker did not accept the declaration: {outcomes[0]}")

    def _fold(self, record: Record) -> None:
        declared = self._declared.fold(record)
        if declared is None:
            return
        if declared.declaration is None:
            self._forget(declared.endpoint)
        else:
            self.digests[declared.endpoint] = declared.digest
            self.authors[declared.endpoint] = declared.author

    def _forget(self, endpoint: str) -> None:
        for known in (self.digests, self._declared.by_name, self.authors):
            known.pop(endpoint, None)


class DeclarationWatch:
    """Keeps the log `declared` equal to the endpoint files.

    An endpoint that is removed from its file is withdrawn; endpoints from other sources are not touched. Each record
    has its file as the author, so endpoints that were removed while no watch ran are withdrawn at the next start.
    """

    def __init__(self, broker: Broker, folder: Path, pattern: str) -> None:
        self._declarations = Declarations(broker)
        self._folder = folder.absolute()
        self._pattern = pattern
        self._published: Mapping[Path, float] | None = None
        self._declared: dict[Path, dict[str, Endpoint]] = {}  # the last valid declarations of each file
        self._owners: dict[str, Path] = {}
        self._unread_files = set[str]()
        self._removed: dict[str, Path] = {}  # endpoints removed from their file and not yet withdrawn
        self.has_published = asyncio.Event()

    async def run(self) -> None:
        """Watch for ever."""
        await self.start()
        while True:
            try:
                await self.publish_changes()
            except TryAgain as exc:
                logger.warning("declarations are published when the broker is back: %s", exc)
            else:
                self.has_published.set()
            await asyncio.sleep(EVERY_S)

    async def start(self) -> None:
        """Read the log `declared`, and note which endpoints came from files of this folder."""
        await self._declarations.read()
        for endpoint, author in self._declarations.authors.items():
            path = file_of(author)
            if path is not None and path.is_relative_to(self._folder):
                self._owners[endpoint] = path

    async def publish_changes(self) -> None:
        """Publish the changes since the last call."""
        files = await asyncio.to_thread(self._files)
        self._warn(set(await asyncio.to_thread(unread_files, self._folder, self._pattern)))
        if files == self._published:
            return
        before = self._published or {}
        changed = [path for path in files if before.get(path) != files[path]]
        self._declared = {path: endpoints for path, endpoints in self._declared.items() if path in files}
        for path in changed:
            self._read_file(path)
        self._release_removed(files)
        for path in sorted(self._declared):
            await self._publish(path, is_news=path in changed)
        for endpoint, path in list(self._removed.items()):
            await self._withdraw(endpoint, path)
        self._published = files  # set last: if the broker is unreachable, the next call does the rest

    def _warn(self, unread_files: set[str]) -> None:
        for warning in sorted(unread_files - self._unread_files):
            logger.warning("%s", warning)
        self._unread_files = unread_files

    def _read_file(self, path: Path) -> None:
        try:
            self._declared[path] = {endpoint.endpoint: endpoint for endpoint in read_file(path)}
            if not self._declared[path]:
                logger.warning("%s declares no endpoint: those that it declared before are withdrawn", path)
        except Misconfigured as exc:
            logger.error("%s; its earlier declarations stay", exc)  # noqa: TRY400 - the file is wrong, not the code

    def _release_removed(self, files: Mapping[Path, float]) -> None:
        """Release endpoints that were removed from their file, so that another file may declare them.

        A file that cannot be read keeps its endpoints.
        """
        removed = {
            endpoint: path
            for endpoint, path in self._owners.items()
            if path not in files or (path in self._declared and endpoint not in self._declared[path])
        }
        for endpoint in removed:
            del self._owners[endpoint]
        self._removed.update(removed)

    async def _publish(self, path: Path, *, is_news: bool) -> None:
        for name, endpoint in self._declared[path].items():
            owner = self._owners.get(name, path)
            if owner == path:
                await self._declare(endpoint, path)
                self._owners[name] = path
            elif is_news:
                logger.error("%s: endpoint %s is declared by %s already, which stays in force", path, name, owner.name)

    async def _declare(self, endpoint: Endpoint, path: Path) -> None:
        author = author_of(path)
        if await self._declarations.apply(endpoint, author):
            logger.info("endpoint %s is declared by %s", endpoint.endpoint, path.name)
        elif self._declarations.authors.get(endpoint.endpoint) != author:
            await self._declarations.declare(endpoint, author)  # the next start needs the new author

    async def _withdraw(self, endpoint: str, path: Path) -> None:
        if endpoint not in self._owners:
            logger.info("endpoint %s is withdrawn: %s no longer declares it", endpoint, path.name)
            await self._declarations.withdraw(endpoint, author_of(path))
        del self._removed[endpoint]

    def _files(self) -> Mapping[Path, float]:
        return {path: path.stat().st_mtime for path in sorted(self._folder.glob(self._pattern)) if path.is_file()}
