"""Finds the dead queues of an installation.

Brokers cannot list queues, so their names are derived from declared endpoints, announced models and the repository.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from broker.base import Broker
from broker.channels import Channels
from broker.errors import Misconfigured
from broker.messages import Record
from broker.records.declared import read_declared
from deploy.operations.inspection import read_view
from processors.repository import scan
from router.state.view import View

TARGET = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,62})@([1-9][0-9]{0,8})")
ASKED_AT_ONCE = 32
NAMES_SHOWN = 20

Version = tuple[str, int]


@dataclass(frozen=True, slots=True)
class DeadQueues:
    """All possible dead queues: those of endpoints, with their model versions, and those of models."""

    channels: Channels
    endpoints: Mapping[str, frozenset[Version]]
    models: Mapping[str, frozenset[int]]

    def all(self) -> list[str]:
        """All possible dead queues, sorted."""
        return self._dead_queues(
            self.endpoints, [(model, one) for model, found in self.models.items() for one in found]
        )

    def of_endpoint(self, endpoint: str) -> list[str]:
        """Return the dead queues of an endpoint and its model versions; raises Misconfigured if it is unknown."""
        if endpoint not in self.endpoints:
            raise Misconfigured(unknown_name("endpoint", endpoint, self.endpoints))
        return self._dead_queues([endpoint], self.endpoints[endpoint])

    def of_model(self, model: str) -> list[str]:
        """Return the dead queues of `model` or `model@version`; raises Misconfigured if it is unknown."""
        name, _, version = model.partition("@")
        versions = self.models.get(name, frozenset())
        if not versions or (version and version not in map(str, versions)):
            known = [f"{other}@{one}" for other, found in self.models.items() for one in found]
            raise Misconfigured(unknown_name("model", model, known if version else self.models))
        return self._dead_queues([], [(name, one) for one in versions if version in ("", str(one))])

    def _dead_queues(self, endpoints: Iterable[str], versions: Iterable[Version]) -> list[str]:
        queues = [self.channels.requests(endpoint) for endpoint in endpoints]
        queues += [self.channels.inputs(model, version) for model, version in versions]
        return sorted(map(self.channels.dead, queues))


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Write the error text for an unknown name, with the nearest known name and a list of known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{what} {name!r} is not known; {hint}known: {shown or 'none'}"


def dead_queue_name(channels: Channels, name: str) -> str:
    """Return the dead queue for `hello@1`, `inputs.hello.1` or `dead.inputs.hello.1`."""
    if target := TARGET.fullmatch(name):
        return channels.dead(channels.inputs(target[1], int(target[2])))
    return channels.dead(channels.prefix + name.removeprefix(channels.prefix).removeprefix("dead."))


async def find_dead_queues(broker: Broker, repository: Path) -> DeadQueues:
    """Find the dead queues of all models and endpoints: those served, in the repository, or declared at any time.

    Withdrawn endpoints count, because their dead letters remain.
    """
    endpoints: defaultdict[str, set[Version]] = defaultdict(set)

    def fold(record: Record) -> None:
        declared = read_declared(record)
        if declared is not None and declared.declaration is not None:
            arms = declared.declaration.arms.values()
            endpoints[declared.endpoint].update((target.model, target.version) for target in arms)

    view = await read_view(broker, fold)
    models = await asyncio.to_thread(_models, view, endpoints, repository)
    for model, versions in models.items():  # a model without an endpoint is served under its own name
        endpoints[model].update((model, version) for version in versions)
    return DeadQueues(
        broker.channels,
        {name: frozenset(targets) for name, targets in endpoints.items()},
        {name: frozenset(versions) for name, versions in models.items()},
    )


async def non_empty(broker: Broker, queues: Sequence[str]) -> list[str]:
    """Return those of the dead queues that are not empty."""
    found = []
    for at in range(0, len(queues), ASKED_AT_ONCE):
        some = queues[at : at + ASKED_AT_ONCE]
        depths = await asyncio.gather(*map(broker.depth, some))
        found += [queue for queue, depth in zip(some, depths, strict=True) if depth.messages]
    return found


async def resolve_dead_queue(broker: Broker, repository: Path, name: str) -> tuple[str, bool]:
    """Return the dead queue called `name`, and True if it is not empty; raises Misconfigured if it is unknown."""
    queue = dead_queue_name(broker.channels, name)
    if (await broker.depth(queue)).messages:
        return queue, True
    known = (await find_dead_queues(broker, repository)).all()
    if queue in known:
        return queue, False
    shown = [other.removeprefix(broker.channels.prefix) for other in await non_empty(broker, known)]
    text = unknown_name("dead queue", queue.removeprefix(broker.channels.prefix), shown)
    raise Misconfigured(text)


def _models(view: View, endpoints: Mapping[str, set[Version]], repository: Path) -> Mapping[str, set[int]]:
    models: defaultdict[str, set[int]] = defaultdict(set)
    for targets in endpoints.values():
        for model, version in targets:
            models[model].add(version)
    for model, served in view.versions.by_model.items():
        models[model].update(served)
    with suppress(Misconfigured):  # the command may run on a machine without the repository
        for model, found in scan(repository).models.items():
            models[model].update(version.number for version in found.versions)
    return models
