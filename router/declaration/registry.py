"""The tables of policies and bandits: an added kind is one file, and one line here or an entry point of its package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from broker.errors import Misconfigured
from router.declaration.kind import PolicyConfig


class Registry(Mapping[str, type[PolicyConfig]]):
    """Configuration classes by name. A class is imported when it is first looked up.

    `built_in` gives `module:class` by name. Installed packages add names by entry points of the group `group`; they
    cannot replace a built-in name.
    """

    def __init__(self, group: str, built_in: Mapping[str, str]) -> None:
        self._group = group
        self._built_in = built_in
        self._added: dict[str, EntryPoint] | None = None
        self._loaded: dict[str, type[PolicyConfig]] = {}

    def __getitem__(self, name: str) -> type[PolicyConfig]:
        found = self._loaded.get(name)
        if found is None:
            found = self._loaded[name] = self._load(name)
        return found

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from (name for name in self._entry_points() if name not in self._built_in)

    def __len__(self) -> int:
        return len({*self._built_in, *self._entry_points()})

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._entry_points()

    def refresh(self) -> None:
        """Read the entry points again: packages were installed while this process runs."""
        self._added, self._loaded = None, {}

    def _entry_points(self) -> Mapping[str, EntryPoint]:
        if self._added is None:
            self._added = {entry.name: entry for entry in entry_points(group=self._group)}
        return self._added

    def _load(self, name: str) -> type[PolicyConfig]:
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            found = getattr(import_module(module), attribute)
        else:
            found = self._load_entry_point(self._entry_points()[name])
        return found  # type: ignore[no-any-return]

    def _load_entry_point(self, entry: EntryPoint) -> object:
        try:
            found = entry.load()
        except Exception as exc:  # code of another package: any error in it means that its name cannot be used
            raise Misconfigured(f"{self._group}: {entry.name} = {entry.value} cannot be imported: {exc}") from exc
        if not (isinstance(found, type) and issubclass(found, PolicyConfig)):
            raise Misconfigured(f"{self._group}: {entry.name} = {entry.value} is no subclass of PolicyConfig")
        return found


POLICIES = Registry(
    "millrace.policies",
    {
        "split": "router.kinds.split:SplitConfig",
        "shadow": "router.kinds.shadow:ShadowConfig",
        "canary": "router.kinds.canary:CanaryConfig",
        "bandit": "router.kinds.bandit:BanditConfig",
        "interleave": "router.kinds.interleave:InterleaveConfig",
    },
)
"""By the key of `policy` that names the kind, such as `split` in `policy: {split: [v1, v2]}`."""


def has_shadow(policy: str) -> bool:
    """Return True if the second leg of a policy's requests is a shadow; False for a name that is not in the table."""
    return policy in POLICIES and POLICIES[policy].has_shadow


BANDITS = Registry(
    "millrace.bandits",
    {
        "thompson": "router.kinds.thompson:ThompsonConfig",
        "epsilon_greedy": "router.kinds.epsilon_greedy:EpsilonGreedyConfig",
        "ucb": "router.kinds.ucb:UcbConfig",
        "exp3": "router.kinds.exp3:Exp3Config",
        "linucb": "router.kinds.linucb:LinUcbConfig",
        "lints": "router.kinds.lints:LinThompsonConfig",
    },
)
"""By the value of the key `bandit`."""
