"""What a policy is to the router."""

from __future__ import annotations

from typing import Protocol

from router.snapshot import Snapshot


class Policy(Protocol):
    """Says how probable each arm is; the router draws, so that the propensity is exact."""

    @property
    def name(self) -> str:
        """The word that rows carry."""

    @property
    def sticky(self) -> bool:
        """Whether the same key is to get the same arm."""

    def first(self) -> Snapshot:
        """Return snapshot 0: a pure function of the declaration."""
