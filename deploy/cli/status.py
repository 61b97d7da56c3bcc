"""`millrace status` and `millrace models`: the processes and the endpoints of an installation."""

from __future__ import annotations

from typing import Any

import typer

from broker.base import Broker
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    Json,
    SettingsPath,
    existing_installation,
    overrides,
    read_list,
    show,
    warn,
)
from deploy.operations.inspection import left_out, read_view, withheld_arms
from deploy.settings import load_settings

SETTLE_S = 2.5  # longer than the interval of heartbeats


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: millrace status --json")(status)
    app.command(epilog="Example: millrace models")(models)


def status(settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", as_json: Json = False) -> None:
    """Show the processes of the installation, from their heartbeats."""
    declared: list[Endpoint] = []

    async def read(connection: Broker) -> list[dict[str, Any]]:
        view = await read_view(connection)
        declared.extend(view.declarations())
        rows = []
        for announcement, _ in view.processes.newest.values():
            age_s = max(0.0, (now_us() - announcement.at_us) / 1e6)  # another machine's clock may be ahead
            rows.append(
                {
                    "part": announcement.part,
                    "state": announcement.state if age_s < 3 * SETTLE_S else "silent",
                    "model": f"{announcement.model}@{announcement.version}" if announcement.model else "",
                    "pid": announcement.pid,
                    "in flight": announcement.in_flight,
                    "heard s ago": round(age_s, 1),
                    "instance": announcement.instance,
                    "error": "; ".join(filter(None, (announcement.error, *announcement.troubles))),
                }
            )
        return sorted(rows, key=lambda row: (row["part"], row["model"], row["instance"]))

    rows = read_list(existing_installation(settings, overrides(broker__url=broker)), read)
    show(rows, ("part", "state", "model", "pid", "in flight", "heard s ago", "error"), as_json=as_json)
    warn(withheld_arms(declared, load_settings(settings).repository_folder))


def models(settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", as_json: Json = False) -> None:
    """Show the endpoints and their arms, which of them are ready, and how many requests wait."""
    declared: list[Endpoint] = []

    async def read(connection: Broker) -> list[dict[str, Any]]:
        view = await read_view(connection)
        declared.extend(view.declarations())
        rows = []
        for name in view.endpoints():
            router = view.router(name)
            for arm, target in router.endpoint.arms.items():
                depth = await connection.depth(connection.channels.inputs(target.model, target.version))
                ready = view.versions.is_ready(target.model, target.version)
                rows.append(
                    {
                        "endpoint": name,
                        "arm": arm,
                        "model": target.model,
                        "version": target.version,
                        "ready": "yes" if ready else "no",
                        "waiting": depth.requests,
                    }
                )
        return rows

    rows = read_list(existing_installation(settings, overrides(broker__url=broker)), read)
    show(rows, ("endpoint", "arm", "model", "version", "ready", "waiting"), as_json=as_json)
    repository = load_settings(settings).repository_folder
    models = left_out(repository)
    warn([*models.broken, *models.ignored, *withheld_arms(declared, repository)])
