"""`millrace route simulate`: tries a policy on generated traffic before it is declared."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from broker.errors import Misconfigured
from broker.support.strict import fraction, seconds
from deploy.cli.plots import print_sections
from deploy.cli.route_evidence import one_endpoint
from deploy.cli.terminal import Json, console, errors
from router.evidence.sections import as_json

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|h)")
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0}

Means = Annotated[str, typer.Option("--means", help="A bandit's arms: the mean reward of each, v1=0.10,v2=0.12.")]
Failures = Annotated[str, typer.Option("--failures", help="A canary's bad events: the share of each arm, v1=1%,v3=2%.")]
Noise = Annotated[str, typer.Option("--noise", help="Interleaving: how much each ranker errs, v1=0.1,v2=0.3.")]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: millrace route simulate next.yaml --traffic 50/s --means v1=0.10,v2=0.12")(simulate)


def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The declaration of one endpoint.")],
    traffic: Annotated[str, typer.Option("--traffic", help="Requests: 100/s, 20/m or 500/h.")] = "100/s",
    for_: Annotated[
        str, typer.Option("--for", help="Simulated time, such as 2h; by default a canary's timeout, or two hours.")
    ] = "",
    means: Means = "",
    failures: Failures = "",
    noise: Noise = "",
    runs: Annotated[int, typer.Option("--runs", help="The number of runs.", min=1, max=100_000)] = 100,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same result.", min=0)] = 1,
    as_json_: Json = False,
) -> None:
    """Try a declared policy on generated traffic: how fast it would learn, and at which cost."""
    endpoint = one_endpoint(file)
    with errors.status(f"{runs} runs"):
        from router.simulation.declared import simulated
        from router.simulation.spec import SimulationSpec  # imports numpy

        spec = SimulationSpec(
            rate=read_rate(traffic),
            for_s=_duration(for_),
            runs=runs,
            seed=seed,
            means=_by_arm("--means", means, float),
            failures=_by_arm("--failures", failures, _share),
            noise=_by_arm("--noise", noise, float),
        )
        sections = simulated(endpoint, spec)
    if as_json_:
        sys.stdout.write(json.dumps({"endpoint": endpoint.endpoint, **as_json(sections)}) + "\n")
    else:
        print_sections(sections, console)


def read_rate(text: str) -> float:
    """Parse a rate and return it in requests per second; raises Misconfigured."""
    match = _RATE.fullmatch(text.strip())
    rate = float(match[1]) / _PER[match[2]] if match else 0.0
    if not 0.0 < rate <= 1e6:
        raise Misconfigured(f"--traffic: {text!r} is not a rate: write it as 100/s, 20/m or 500/h")
    return rate


def _duration(text: str) -> float:
    """Parse `--for` and return seconds, 0 if it was not given."""
    if not text:
        return 0.0
    try:
        read = seconds(text)
    except ValueError as exc:
        raise Misconfigured(f"--for: {exc}") from exc
    if not read:
        raise Misconfigured(f"--for: {text!r} is no time at all: write it as 10m or 2h, or leave it out")
    return read


def _by_arm(option: str, text: str, read: Callable[[str], float]) -> dict[str, float]:
    found = dict[str, float]()
    for part in filter(None, text.split(",")):
        arm, _, number = (piece.strip() for piece in part.partition("="))
        try:
            found[arm] = read(number)
        except ValueError as exc:
            raise Misconfigured(f"{option}: {part!r} is not a number for an arm: write it as v1=0.1,v2=0.2") from exc
        if not 0.0 <= found[arm] <= 1.0:
            raise Misconfigured(f"{option}: {part!r}: a number from 0 to 1 is expected")
    return found


def _share(text: str) -> float:
    return fraction(text if text.endswith("%") else float(text))
