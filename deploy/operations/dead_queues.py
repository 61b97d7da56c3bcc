"""Which dead queues an installation has: brokers do not list queues, so they follow from what is and was served."""

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
    """All dead queues that there may be: of endpoints with their model versions, and of models."""

    channels: Channels
    endpoints: Mapping[str, frozenset[Version]]
    models: Mapping[str, frozenset[int]]

    def all(self) -> list[str]:
        """Return every dead queue."""
        return self._graves(self.endpoints, [(model, one) for model, found in self.models.items() for one in found])

    def of_endpoint(self, endpoint: str) -> list[str]:
        """Return the dead queues where an endpoint's requests may lie; raises Misconfigured for an unknown one."""
        if endpoint not in self.endpoints:
            raise Misconfigured(unknown("endpoint", endpoint, self.endpoints))
        return self._graves([endpoint], self.endpoints[endpoint])

    def of_model(self, model: str) -> list[str]:
        """Return the dead queues of `model` or `model@version`; raises Misconfigured for an unknown one."""
        name, _, version = model.partition("@")
        versions = self.models.get(name, frozenset())
        if not versions or (version and version not in map(str, versions)):
            known = [f"{other}@{one}" for other, found in self.models.items() for one in found]
            raise Misconfigured(unknown("model", model, known if version else self.models))
        return self._graves([], [(name, one) for one in versions if version in ("", str(one))])

    def _graves(self, endpoints: Iterable[str], versions: Iterable[Version]) -> list[str]:
        queues = [self.channels.requests(endpoint) for endpoint in endpoints]
        queues += [self.channels.inputs(model, version) for model, version in versions]
        return sorted(map(self.channels.dead, queues))


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return an error's text: what is not known, the nearest that is, and what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{what} {name!r} is not known; {hint}there is: {shown or 'none'}"


def grave_called(channels: Channels, name: str) -> str:
    """Return the dead queue that a person means: `hello@1`, `inputs.hello.1` or `dead.inputs.hello.1`."""
    if target := TARGET.fullmatch(name):
        return channels.dead(channels.inputs(target[1], int(target[2])))
    return channels.dead(channels.prefix + name.removeprefix(channels.prefix).removeprefix("dead."))


async def find_grounds(broker: Broker, repository: Path) -> DeadQueues:
    """Find what is served, announced, or in the repository, and what was ever declared: the dead outlive endpoints."""
    endpoints: defaultdict[str, set[Version]] = defaultdict(set)

    def fold(record: Record) -> None:
        said = read_declared(record)
        if said is not None and said.declaration is not None:
            arms = said.declaration.arms.values()
            endpoints[said.endpoint].update((target.model, target.version) for target in arms)

    view = await read_view(broker, fold)
    models = await asyncio.to_thread(_models, view, endpoints, repository)
    for model, versions in models.items():  # a model that no endpoint claims is one under its own name
        endpoints[model].update((model, version) for version in versions)
    return DeadQueues(
        broker.channels,
        {name: frozenset(targets) for name, targets in endpoints.items()},
        {name: frozenset(versions) for name, versions in models.items()},
    )


async def filled(broker: Broker, graves: Sequence[str]) -> list[str]:
    """Return those dead queues that hold something."""
    found = []
    for at in range(0, len(graves), ASKED_AT_ONCE):
        some = graves[at : at + ASKED_AT_ONCE]
        depths = await asyncio.gather(*map(broker.depth, some))
        found += [grave for grave, depth in zip(some, depths, strict=True) if depth.messages]
    return found


async def open_grave(broker: Broker, repository: Path, name: str) -> tuple[str, bool]:
    """Return the dead queue called `name` and whether it holds anything; raises Misconfigured for an unknown one."""
    grave = grave_called(broker.channels, name)
    if (await broker.depth(grave)).messages:
        return grave, True
    known = (await find_grounds(broker, repository)).all()
    if grave in known:
        return grave, False
    shown = [queue.removeprefix(broker.channels.prefix) for queue in await filled(broker, known)]
    text = unknown("dead queue", grave.removeprefix(broker.channels.prefix), shown)
    raise Misconfigured(text)


def _models(view: View, endpoints: Mapping[str, set[Version]], repository: Path) -> Mapping[str, set[int]]:
    models: defaultdict[str, set[int]] = defaultdict(set)
    for targets in endpoints.values():
        for model, version in targets:
            models[model].add(version)
    for model, served in view.versions.by_model.items():
        models[model].update(served)
    with suppress(Misconfigured):  # who is on call may look from a machine without the repository
        for model, found in scan(repository).models.items():
            models[model].update(version.number for version in found.versions)
    return models
