"""`millrace demo`: the whole product on real data, in one command."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.errors import Misconfigured
from deploy.cli.terminal import BrokerUrl, console

ENGINES = ("ray", "process")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: millrace demo --broker amqp://guest:guest@localhost")(demo)


def demo(
    broker: BrokerUrl = "",
    serve: Annotated[bool, typer.Option("--serve", help="Keep running afterwards, on Triton's ports.")] = False,
    engine: Annotated[str, typer.Option(help="ray or process.")] = "ray",
    requests: Annotated[int, typer.Option(help="How many held-out digits to send.", min=2)] = 898,
) -> None:
    """Train two digit classifiers, serve them behind a queue, split traffic between them, and show what happened."""
    if engine not in ENGINES:
        raise Misconfigured(f"--engine {engine}: known engines are {', '.join(ENGINES)}")
    console.print("loading torch and scikit-learn")  # seconds, in which nothing else would be seen
    from deploy.demo.run import run_demo

    raise typer.Exit(run_demo(broker=broker, serve=serve, engine=engine, requests=requests))
