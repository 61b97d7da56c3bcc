"""What an engine is: it only starts and stops replicas."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaTarget:
    """One model version that shall be served, and by how many replicas. Another fingerprint means other files."""

    model: str
    version: int
    replicas: int
    fingerprint: str


class Engine(ABC):
    """Keeps replicas running: `process` on this machine, `ray` wherever Ray has room."""

    @abstractmethod
    async def open(self) -> None:
        """Get ready to start replicas."""

    @abstractmethod
    async def want(self, wanted: list[ReplicaTarget]) -> None:
        """Make the running replicas what is wanted; returns when starts and stops are under way."""

    @abstractmethod
    async def watch(self) -> None:
        """Restart what died, with a growing pause; called every second."""

    @abstractmethod
    async def close(self) -> None:
        """Stop all replicas; each finishes what it holds."""
