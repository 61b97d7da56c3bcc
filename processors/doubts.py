"""What vanishes from a repository all at once: an unmounted volume looks as if everything had been removed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeAlias

Key: TypeAlias = tuple[str, int]
"""A model and the number of a version."""


class VanishedVersions:
    """Keeps versions that vanished together for `after_s`; `clock` gives seconds."""

    def __init__(self, after_s: float, clock: Callable[[], float]) -> None:
        self._after_s = after_s
        self._clock = clock
        self._since: dict[Key, float] = {}

    def doubted(self, gone: Collection[Key], served: int) -> Iterable[Key]:
        """Return those of the versions that are gone which are still to be served; `served` is how many are now.

        More than half of what is served, gone since the last look, is doubted; fewer were removed by somebody.
        """
        now_s = self._clock()
        fresh = [key for key in gone if key not in self._since]
        since = {key: self._since[key] for key in gone if key in self._since}
        if 2 * len(fresh) > served:
            since |= dict.fromkeys(fresh, now_s)
        self._since = {key: at_s for key, at_s in since.items() if now_s - at_s < self._after_s}
        return list(self._since)

    def said(self, repository: Path) -> dict[str, str]:
        """Return what to say of it: nothing, or one problem of the whole repository."""
        if not self._since:
            return {}
        names = ", ".join(sorted({f"{model}@{version}" for model, version in self._since})[:10])
        return {
            "": f"{len(self._since)} versions vanished from {repository} at once ({names}): is a volume unmounted? "
            f"They are served until they have been gone for {self._after_s:.0f} s (repository.doubt), or until the "
            "processors are started again"
        }
