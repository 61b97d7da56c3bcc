"""The protocol of a scenario."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from broker.errors import MillraceError
from deploy.demo.progress import Steps
from deploy.demo.scenarios.claims import ScenarioClaim
from deploy.demo.scenarios.stage import ScenarioStage


class UnfitModels(MillraceError):
    """The accuracies of the trained models do not differ as the scenario needs; another seed may help."""


class Scenario(Protocol):
    """One policy at work; it is constructed with the number of requests and a seed."""

    @property
    def tick(self) -> str:
        """The setting `learner.tick`: the real duration of an event second."""

    @property
    def arms(self) -> Mapping[str, tuple[str, ...]]:
        """The arms of the scenario's endpoints, by endpoint."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that `prepare` writes, each with version 1."""

    def prepare(self, folder: Path, steps: Steps) -> None:
        """Train the models, and write them and the endpoints; raises UnfitModels."""

    async def play(self, stage: ScenarioStage) -> list[ScenarioClaim]:
        """Send requests and feedback, print the picture and the table, and return the claims."""
