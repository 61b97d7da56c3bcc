"""What a scenario is to the command that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from broker.errors import MillraceError
from deploy.demo.progress import Steps
from deploy.demo.scenarios.claims import ScenarioClaim
from deploy.demo.scenarios.stage import ScenarioStage


class UnfitModels(MillraceError):
    """The models that were trained do not differ as the scenario needs: another seed may do."""


class Scenario(Protocol):
    """One policy at work. It is made of the number of requests and the seed."""

    @property
    def tick(self) -> str:
        """How long an event second lasts."""

    @property
    def arms(self) -> Mapping[str, tuple[str, ...]]:
        """The arms of its endpoints, by endpoint."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it writes, each with version 1."""

    def prepare(self, folder: Path, steps: Steps) -> None:
        """Train models, and write them and the endpoints; raises Unfit."""

    async def play(self, stage: ScenarioStage) -> list[ScenarioClaim]:
        """Send requests and feedback, show the picture and the table, and return the claims."""
