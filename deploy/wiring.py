"""An installation: its settings file, its broker, and the command lines of its parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.base import Broker
from broker.channels import Limits
from broker.connect import connect
from deploy.processes.command import PartCommand, command_line
from deploy.settings import Settings, load_settings

CLOSING_S = 5.0  # added to the grace: the time to end replicas and to close the broker

PARTS = ("gateway", "router", "learner", "processors", "monitors")


@dataclass(frozen=True, slots=True)
class Installation:
    """A settings file, the settings read from it, and the flags that override them by dotted key."""

    path: Path
    settings: Settings
    overrides: Mapping[str, str]

    @classmethod
    def at(cls, path: Path, overrides: dict[str, str] | None = None) -> Installation:
        """Read the settings at `path`."""
        return cls(path.resolve(), load_settings(path, overrides), overrides or {})

    def broker(self) -> Broker:
        """Create the adapter of the installation's broker; the caller opens and closes it."""
        return connect(self.settings.broker_url, self.settings.channels)

    @property
    def grace_s(self) -> float:
        """The longest time that a part may take to stop, in seconds."""
        return max(self.settings.gateway.grace, self.settings.processors.grace) + CLOSING_S

    def part_command(self, *words: str) -> list[str]:
        """Build the command line that runs a part of this installation as a child of this process."""
        return command_line(PartCommand(parent=os.getpid(), settings=self.path, words=words))

    def queue_limits(self) -> Limits:
        """The limits of each queue that this installation declares."""
        limits = self.settings.broker.limits
        return Limits(messages=limits.requests, bytes=limits.size)
