"""`millrace route`: how requests are routed, why, what that has earned, and what another policy would."""

from __future__ import annotations

import typer

from deploy.cli import route_evidence, route_orders, route_show, route_simulate


def add_to(parent: typer.Typer) -> None:
    """Add the commands."""
    app = typer.Typer(
        help="Look at an endpoint's policy, steer it, and ask its log what it is worth.",
        epilog="Example: millrace route show fraud",
        no_args_is_help=True,
    )
    for module in (route_show, route_orders, route_evidence, route_simulate):
        module.add_to(app)
    parent.add_typer(app, name="route")
