"""Keeps serving versions that vanish from a repository all at once: an unmounted volume looks like an empty folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeAlias

Key: TypeAlias = tuple[str, int]
"""A model and the number of a version."""


class VanishedVersions:
    """Versions that vanished together, each for at most `after_s` seconds of `clock`."""

    def __init__(self, after_s: float, clock: Callable[[], float]) -> None:
        self._after_s = after_s
        self._clock = clock
        self._since: dict[Key, float] = {}

    def still_served(self, gone: Collection[Key], served: int) -> Iterable[Key]:
        """Return the versions out of `gone` that must still be served; `served` is the number of served versions.

        Versions are kept if more than half of all vanished since the last scan. Fewer were removed on purpose.
        """
        now_s = self._clock()
        fresh = [key for key in gone if key not in self._since]
        since = {key: self._since[key] for key in gone if key in self._since}
        if 2 * len(fresh) > served:
            since |= dict.fromkeys(fresh, now_s)
        self._since = {key: at_s for key, at_s in since.items() if now_s - at_s < self._after_s}
        return list(self._since)

    def problem(self, repository: Path) -> dict[str, str]:
        """Return the problem of the whole repository under an empty model name, or nothing."""
        if not self._since:
            return {}
        names = ", ".join(sorted({f"{model}@{version}" for model, version in self._since})[:10])
        return {
            "": f"{len(self._since)} versions vanished from {repository} at once ({names}): is a volume unmounted? "
            f"They are served until they have been gone for {self._after_s:.0f} s (repository.doubt), or until the "
            "processors are started again"
        }
