"""`millrace route`: shows and steers an endpoint's policy, and evaluates it and other policies."""

from __future__ import annotations

import typer

from deploy.cli import route_control, route_evidence, route_show, route_simulate


def add_to(parent: typer.Typer) -> None:
    """Add the commands."""
    app = typer.Typer(
        help="Show an endpoint's policy, steer it, and evaluate it from the endpoint's log.",
        epilog="Example: millrace route show fraud",
        no_args_is_help=True,
    )
    for module in (route_show, route_control, route_evidence, route_simulate):
        module.add_to(app)
    parent.add_typer(app, name="route")
