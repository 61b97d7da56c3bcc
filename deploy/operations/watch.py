"""Watches `endpoints/*.yaml` and publishes what is declared there; changing a file restarts nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker.base import Broker
from broker.delivery.log_follower import LogFollower
from broker.errors import Misconfigured, NotFound, TryAgain, Unavailable
from broker.messages import Record
from broker.records.declared import digest, endpoint_declared, endpoint_withdrawn, read_declared
from broker.records.endpoint import Endpoint, read_endpoint
from deploy.yaml_text import read_yaml
from router.policies.declared import read_policy

log = logging.getLogger(__name__)

EVERY_S = 1.0
_FILE = "file "


def read_file(path: Path) -> list[Endpoint]:
    """Read the declarations in one file, one a YAML document; raises Misconfigured for these and for their policies."""
    endpoints = [read_endpoint(document, source=path.name) for document in read_yaml(path)]
    for endpoint in endpoints:
        _check_policy(endpoint, path)
    _check_once(endpoints, path)
    return endpoints


def _check_once(endpoints: Sequence[Endpoint], path: Path) -> None:
    """Refuse two documents for one endpoint: nobody could tell which of them holds."""
    names = [endpoint.endpoint for endpoint in endpoints]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Misconfigured(
            f"{path.name}: endpoint {twice[0]} is declared twice in this file: keep one of the documents"
        )


def passed_over(folder: Path, pattern: str) -> list[str]:
    """Return what is said of files that lie beside the declarations, and whose other spelling of .yaml nobody reads."""
    stem, dot, suffix = pattern.rpartition(".")
    other = {"yaml": "yml", "yml": "yaml"}.get(suffix)
    if not dot or other is None:
        return []
    return [
        f"{path} is not read: endpoints is {pattern}; name it {path.stem}.{suffix}, or change endpoints"
        for path in sorted(folder.glob(f"{stem}.{other}"))
    ]


def _check_policy(endpoint: Endpoint, path: Path) -> None:
    """Refuse a policy that routers could not read: they would answer nothing for the endpoint."""
    try:
        read_policy(endpoint)
    except Misconfigured as exc:
        raise Misconfigured(f"{path.name}: {exc}") from exc


def author_of(path: Path) -> str:
    """Return what a record names as its author when it came from a file."""
    return f"{_FILE}{path}"


def file_of(author: str) -> Path | None:
    """Return the file that a record came from; None for one that was declared by other means."""
    return Path(author.removeprefix(_FILE)) if author.startswith(_FILE) else None


class Declarations:
    """What the `declared` log says of endpoints now, with the hash of each."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.digests: dict[str, str] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.authors: dict[str, str] = {}

    async def read(self) -> None:
        """Read the log from its beginning to its present end; one that is not there has said nothing."""
        if not await self._broker.exists(self._broker.channels.declared):
            return
        following = LogFollower(self._broker, self._broker.channels.declared, 0, self._fold)
        task = asyncio.create_task(following.run(), name="declared")
        await following.caught_up.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def apply(self, endpoint: Endpoint, author: str) -> bool:
        """Declare an endpoint, unless that is what is declared already; tells whether anything changed."""
        if self.digests.get(endpoint.endpoint) == digest(endpoint):
            return False
        await self.declare(endpoint, author)
        return True

    def author(self, endpoint: str) -> str:
        """Return who declared an endpoint; raises NotFound with those that there are."""
        if endpoint not in self.authors:
            known = ", ".join(sorted(self.authors)) or "none"
            raise NotFound(f"no endpoint {endpoint!r} is declared; there is: {known}")
        return self.authors[endpoint]

    async def declare(self, endpoint: Endpoint, author: str) -> None:
        """Declare an endpoint, whatever is declared already."""
        await self._append(endpoint_declared(endpoint, author))
        self.digests[endpoint.endpoint] = digest(endpoint)
        self.endpoints[endpoint.endpoint] = endpoint
        self.authors[endpoint.endpoint] = author

    async def withdraw(self, endpoint: str, author: str) -> None:
        """Take an endpoint back."""
        await self._append(endpoint_withdrawn(endpoint, author))
        self._forget(endpoint)

    async def _append(self, record: bytes) -> None:
        await self._broker.declare(self._broker.channels.declared)
        outcomes = await self._broker.append(self._broker.channels.declared, [record])
        if not outcomes[0].safe:
            raise Unavailable(f"the declaration was not taken: {outcomes[0]}")

    def _fold(self, record: Record) -> None:
        declared = read_declared(record)
        if declared is None:
            return
        if declared.declaration is None:
            self._forget(declared.endpoint)
        else:
            self.digests[declared.endpoint] = declared.digest
            self.endpoints[declared.endpoint] = declared.declaration
            self.authors[declared.endpoint] = declared.author

    def _forget(self, endpoint: str) -> None:
        for known in (self.digests, self.endpoints, self.authors):
            known.pop(endpoint, None)


class DeclarationWatch:
    """Keeps the log at what the files say. Only endpoints that came from files are withdrawn when they leave theirs.

    A record names its file, so that what left a file while nobody watched is withdrawn at the next start.
    """

    def __init__(self, broker: Broker, folder: Path, pattern: str) -> None:
        self._declarations = Declarations(broker)
        self._folder = folder.absolute()
        self._pattern = pattern
        self._seen: Mapping[Path, float] | None = None
        self._read: dict[Path, dict[str, Endpoint]] = {}  # what each file said when it last could be read
        self._owners: dict[str, Path] = {}
        self._passed_over = set[str]()
        self._left: dict[str, Path] = {}  # what left its file, until another one declares it or it is withdrawn
        self.has_looked = asyncio.Event()

    async def run(self) -> None:
        """Watch for ever."""
        await self.start()
        while True:
            try:
                await self.look()
            except TryAgain as exc:
                log.warning("declarations wait for the broker: %s", exc)
            else:
                self.has_looked.set()
            await asyncio.sleep(EVERY_S)

    async def start(self) -> None:
        """Read what is declared, and which of it came from files of this folder."""
        await self._declarations.read()
        for endpoint, author in self._declarations.authors.items():
            path = file_of(author)
            if path is not None and path.is_relative_to(self._folder):
                self._owners[endpoint] = path

    async def look(self) -> None:
        """Publish what changed since the last look."""
        files = await asyncio.to_thread(self._files)
        self._warn(set(await asyncio.to_thread(passed_over, self._folder, self._pattern)))
        if files == self._seen:
            return
        before = self._seen or {}
        changed = [path for path in files if before.get(path) != files[path]]
        self._read = {path: said for path, said in self._read.items() if path in files}
        for path in changed:
            self._read_again(path)
        self._leave(files)
        for path in sorted(self._read):
            await self._publish(path, is_news=path in changed)
        for endpoint, path in list(self._left.items()):
            await self._withdraw(endpoint, path)
        self._seen = files  # not before all is done: the broker may be away, and the next look does what is left

    def _warn(self, passed_over: set[str]) -> None:
        for said in sorted(passed_over - self._passed_over):
            log.warning("%s", said)
        self._passed_over = passed_over

    def _read_again(self, path: Path) -> None:
        try:
            self._read[path] = {endpoint.endpoint: endpoint for endpoint in read_file(path)}
            if not self._read[path]:
                log.warning("%s declares nothing: what it declared before is withdrawn", path)
        except Misconfigured as exc:
            log.error("%s; what was declared before stays", exc)  # noqa: TRY400 - a person mends the file

    def _leave(self, files: Mapping[Path, float]) -> None:
        """Let go of endpoints that left their file, so that another one may declare them.

        A file that cannot be read keeps what it had.
        """
        left = {
            endpoint: path
            for endpoint, path in self._owners.items()
            if path not in files or (path in self._read and endpoint not in self._read[path])
        }
        for endpoint in left:
            del self._owners[endpoint]
        self._left.update(left)

    async def _publish(self, path: Path, *, is_news: bool) -> None:
        for name, endpoint in self._read[path].items():
            owner = self._owners.get(name, path)
            if owner == path:
                await self._declare(endpoint, path)
                self._owners[name] = path
            elif is_news:
                log.error("%s: endpoint %s is declared by %s too; that one stays", path, name, owner.name)

    async def _declare(self, endpoint: Endpoint, path: Path) -> None:
        author = author_of(path)
        if await self._declarations.apply(endpoint, author):
            log.info("endpoint %s is declared by %s", endpoint.endpoint, path.name)
        elif self._declarations.authors.get(endpoint.endpoint) != author:
            await self._declarations.declare(endpoint, author)  # else the next start would not know whose it is

    async def _withdraw(self, endpoint: str, path: Path) -> None:
        if endpoint not in self._owners:
            log.info("endpoint %s is withdrawn: %s no longer declares it", endpoint, path.name)
            await self._declarations.withdraw(endpoint, author_of(path))
        del self._left[endpoint]

    def _files(self) -> Mapping[Path, float]:
        return {path: path.stat().st_mtime for path in sorted(self._folder.glob(self._pattern)) if path.is_file()}
