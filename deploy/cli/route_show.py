"""`millrace route show`: the current state of an endpoint's policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import typer

from broker.protocol.ids import now_us
from broker.records.routing import experiment_of
from deploy.cli.plots import bar, print_sections
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    EndpointName,
    Json,
    SettingsPath,
    console,
    overrides,
    started_installation,
    warn,
    with_broker,
)
from deploy.operations.route_commands import START_ONE, RoutedEndpoint, inspect_endpoint
from deploy.operations.watch import file_of
from router.declaration.policy import read_config
from router.evidence.sections import Section, Table, as_json
from router.evidence.standing import standing
from router.policies.declared import read_policy

COUNTED = ("decisions", "rewards", "joined", "early", "duplicate", "late", "unusable")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: millrace route show fraud")(show)


def show(
    endpoint: EndpointName, settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", as_json_: Json = False
) -> None:
    """Show an endpoint's policy: the leading learner, the arms' weights, and the numbers behind them."""
    installation = started_installation(settings, overrides(broker__url=broker))
    routed = with_broker(installation, lambda connection: inspect_endpoint(connection, endpoint))
    sections = [_facts(routed), _weights(routed), *_learnt(routed), *_ended(routed)]
    if as_json_:
        sys.stdout.write(json.dumps({"endpoint": endpoint, **as_json(sections)}) + "\n")
    else:
        print_sections(sections, console)
    if routed.learns and not routed.is_led:
        warn([f"no learner leads: the weights stay as they are; {START_ONE}"])


def _facts(routed: RoutedEndpoint) -> Table:
    endpoint, snapshot = routed.endpoint, routed.snapshot
    fixed = "" if routed.learns else ": its weights are declared, nothing learns"
    rows = [
        ("policy", f"{read_policy(endpoint).name}{fixed}"),
        ("experiment", experiment_of(endpoint)),
        ("phase", _phase(routed)),
        ("leads", _leader(routed)),
        ("snapshot", "none" if snapshot is None else f"tick {snapshot.number}, published {_ago(snapshot.at_us)}"),
    ]
    rows = rows if routed.learns else rows[:2]
    return Table(key="policy", title=f"endpoint {endpoint.endpoint}", columns=("what", "now"), rows=rows)


def _phase(routed: RoutedEndpoint) -> str:
    if routed.snapshot is not None:
        return routed.snapshot.phase
    return "not begun" if routed.result is None else routed.result.phase


def _leader(routed: RoutedEndpoint) -> str:
    claim = routed.claim
    if claim is None:
        return "no learner so far"
    since = f"claim {claim.term}, {_ago(claim.at_us)}"
    if routed.silent_s is None:
        return f"no learner: {claim.instance} ({since}) is gone"
    state = f"heartbeat {routed.silent_s:.0f} s ago" if routed.is_led else f"silent for {routed.silent_s:.0f} s"
    return f"{claim.instance} ({since}), {state}"


def _weights(routed: RoutedEndpoint) -> Table:
    endpoint, view = routed.endpoint, routed.view
    weights = view.router(endpoint.endpoint).snapshot.weights
    rows = []
    for (arm, target), weight in zip(endpoint.arms.items(), _shares(weights), strict=True):
        ready = "yes" if view.versions.is_ready(target.model, target.version) else "no"
        rows.append((arm, f"{target.model}@{target.version}", ready, weight, bar(weight)))
    return Table(key="weights", title="Weights", columns=("arm", "model", "ready", "weight", ""), rows=rows)


def _shares(weights: tuple[float, ...]) -> list[float]:
    total = sum(weights) or 1.0
    return [weight / total for weight in weights]


def _learnt(routed: RoutedEndpoint) -> list[Section]:
    snapshot = routed.snapshot
    if snapshot is None or not isinstance(snapshot.about, Mapping):
        return []
    counts = snapshot.about.get("counts")
    found = [*standing(routed.endpoint, snapshot.about)]
    if isinstance(counts, Mapping):
        rows: list[tuple[str, Any]] = [(name, counts[name]) for name in COUNTED if counts.get(name)]
        rows.append(("waiting for the end of a horizon", snapshot.about.get("waiting", 0)))
        found.append(
            Table(key="feedback", title="Decisions and feedback so far", columns=("what", "number"), rows=rows)
        )
    return found


def _ended(routed: RoutedEndpoint) -> list[Table]:
    result = routed.result
    if result is None:
        return []
    path = file_of(routed.author)
    where = f"change {path}" if path is not None else "declare it again"
    rows = [("verdict", result.phase), ("when", _ago(result.at_us)), ("next step", f"{where}: {advice(routed)}")]
    return [Table(key="verdict", title="How it ended", columns=("what", "now"), rows=rows)]


def advice(routed: RoutedEndpoint) -> str:
    """Return the change of the declaration that makes the result of an experiment permanent."""
    config, result = read_config(routed.endpoint), routed.result
    if config is None:
        return "no change is needed: it has no policy any more"
    phase, weights = ("", ()) if result is None else (result.phase, result.weights)
    return config.advice(routed.endpoint, phase, weights)


def _ago(at_us: int) -> str:
    seconds = max(0.0, (now_us() - at_us) / 1e6)
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit} ago"
    return f"{seconds:.0f} s ago"
