"""`millrace demo`: the demonstration, and its scenarios."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.errors import Misconfigured
from deploy.cli.terminal import BrokerUrl, console

ENGINES = ("ray", "process")
SCENARIOS = ("bandit", "canary", "shadow", "interleaving")
DIGITS = 898  # the number of held-out digits


EXAMPLES = """Example: millrace demo --broker amqp://guest:guest@localhost

Example: millrace demo --scenario bandit

Example: millrace demo --scenario canary --broker kafka://localhost

Example: millrace demo --scenario shadow --engine ray

Example: millrace demo --scenario interleaving --seed 11"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(demo)


def demo(
    broker: BrokerUrl = "",
    serve: Annotated[bool, typer.Option("--serve", help="Keep serving afterwards, on Triton's ports.")] = False,
    engine: Annotated[str, typer.Option(help="ray or process; by default ray, for a scenario process.")] = "",
    requests: Annotated[
        int | None, typer.Option(help="How many held-out digits to send; by default as many as the claim needs.", min=2)
    ] = None,
    scenario: Annotated[
        str, typer.Option(help="Show one policy at work, with a picture: bandit, canary, shadow or interleaving.")
    ] = "",
    seed: Annotated[int, typer.Option(help="The seed of a scenario's training, images, delays and clicks.")] = 7,
) -> None:
    """Train models of digits, serve them behind a queue, split traffic between them, and show the result."""
    engine = engine or ("process" if scenario else "ray")
    if engine not in ENGINES:
        raise Misconfigured(f"--engine {engine}: known engines are {', '.join(ENGINES)}")
    if scenario and scenario not in SCENARIOS:
        raise Misconfigured(f"--scenario {scenario}: known scenarios are {', '.join(SCENARIOS)}")
    if scenario and serve:
        raise Misconfigured("--serve cannot be used with --scenario: a scenario ends after its claims are checked")
    console.print("loading torch and scikit-learn")  # this takes seconds without other output
    if scenario:
        from deploy.demo.scenarios.run import run_scenario

        raise typer.Exit(run_scenario(scenario, broker=broker, engine=engine, requests=requests, seed=seed))
    from deploy.demo.run import run_demo

    raise typer.Exit(run_demo(broker=broker, serve=serve, engine=engine, requests=requests or DIGITS))
