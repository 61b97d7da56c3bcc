"""The interface of engines, which start and stop replicas."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTarget:
    """One model version to serve, with its number of replicas. Another fingerprint means other files."""

    model: str
    version: int
    replicas: int
    fingerprint: str


class Engine(ABC):
    """Keeps replicas running: `process` on this machine, `ray` in a Ray cluster."""

    @abstractmethod
    async def open(self) -> None:
        """Prepare to start replicas."""

    @abstractmethod
    async def set_targets(self, targets: list[ReplicaTarget]) -> None:
        """Start and stop replicas so that exactly these run; return once the starts and stops have begun."""

    @abstractmethod
    async def restart_dead(self) -> None:
        """Restart replicas that died, each after a growing pause. Called several times a second."""

    @abstractmethod
    async def close(self) -> None:
        """Stop all replicas; each finishes the requests that it holds."""
