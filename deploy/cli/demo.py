"""`millrace demo`: the whole product on real data, in one command."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.errors import Misconfigured
from deploy.cli.terminal import BrokerUrl, console

ENGINES = ("ray", "process")
SCENARIOS = ("bandit", "canary", "shadow", "interleaving")
DIGITS = 898  # that are held out


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
    serve: Annotated[bool, typer.Option("--serve", help="Keep running afterwards, on Triton's ports.")] = False,
    engine: Annotated[str, typer.Option(help="ray or process; without it ray, and process for a scenario.")] = "",
    requests: Annotated[
        int | None, typer.Option(help="How many held-out digits to send; without it as many as the claim needs.", min=2)
    ] = None,
    scenario: Annotated[
        str, typer.Option(help="bandit, canary, shadow or interleaving: a policy at work, with a picture of it.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of a scenario: training, images, delays and clicks follow from it.")] = 7,
) -> None:
    """Train models of digits, serve them behind a queue, split traffic between them, and show what happened."""
    engine = engine or ("process" if scenario else "ray")
    if engine not in ENGINES:
        raise Misconfigured(f"--engine {engine}: known engines are {', '.join(ENGINES)}")
    if scenario and scenario not in SCENARIOS:
        raise Misconfigured(f"--scenario {scenario}: known scenarios are {', '.join(SCENARIOS)}")
    if scenario and serve:
        raise Misconfigured("--serve is for the demonstration without a scenario: a scenario ends with its claim")
    console.print("loading torch and scikit-learn")  # seconds, in which nothing else would be seen
    if scenario:
        from deploy.demo.scenarios.run import run_scenario

        raise typer.Exit(run_scenario(scenario, broker=broker, engine=engine, requests=requests, seed=seed))
    from deploy.demo.run import run_demo

    raise typer.Exit(run_demo(broker=broker, serve=serve, engine=engine, requests=requests or DIGITS))
