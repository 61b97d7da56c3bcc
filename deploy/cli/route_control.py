"""`millrace route pause | resume | promote | abort | set`: sends operator commands to an experiment."""

from __future__ import annotations

import getpass
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from broker.base import Broker
from broker.errors import Misconfigured
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint
from broker.records.routing import OperatorCommand, SnapshotRecord, Word, experiment_of
from broker.support.strict import nearest
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    EndpointName,
    SettingsPath,
    Yes,
    confirm,
    console,
    errors,
    overrides,
    started_installation,
    with_broker,
)
from deploy.operations.route_commands import RoutedEndpoint, inspect_endpoint, send_command, wait_for_leader
from router.declaration.policy import read_config
from router.policies.declared import read_policy

CLOSE = 1e-6
HELD = ("(paused)", "(set by hand)")
ENDS: Mapping[str, tuple[str, ...]] = {"promote": ("promoted",), "abort": ("aborted", "ended without a winner")}
DOES = {
    "pause": "Keep the weights as they are; the learner goes on learning, and `resume` applies the result.",
    "resume": "Let the learner set the weights again, after `pause` or `set`.",
    "promote": "Give a canary all traffic, whether or not it is proven better.",
    "abort": "Take a canary back, or end interleaving with the first ranker alone.",
}

Author = Annotated[str, typer.Option("--author", help="The author in the record; by default your user name.")]
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds to wait for a snapshot that follows the command.", min=0.1)
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for word in ("pause", "resume", "promote", "abort"):
        app.command(word, help=DOES[word], epilog=f"Example: millrace route {word} fraud")(_command_for(word))
    app.command("set", epilog="Example: millrace route set fraud v1=90 v2=10")(set_weights)


def _command_for(word: Word) -> Callable[..., None]:
    def command(
        endpoint: EndpointName,
        yes: Yes = False,
        author: Author = "",
        wait: Wait = 30.0,
        settings: SettingsPath = DEFAULT_SETTINGS,
        broker: BrokerUrl = "",
    ) -> None:
        _steer(settings, broker, endpoint, word, {}, author=author, wait_s=wait, yes=yes)

    return command


def set_weights(
    endpoint: EndpointName,
    weights: Annotated[list[str], typer.Argument(metavar="ARM=WEIGHT...", help="Weights; other arms get none.")],
    yes: Yes = False,
    author: Author = "",
    wait: Wait = 30.0,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
) -> None:
    """Set the arms' weights by hand, until `resume`."""
    _steer(settings, broker, endpoint, "set", read_weights(weights), author=author, wait_s=wait, yes=yes)


def read_weights(words: list[str]) -> dict[str, float]:
    """Parse words of the form ARM=WEIGHT; raises Misconfigured."""
    found = dict[str, float]()
    for word in words:
        arm, equals, text = word.partition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not equals or not 0.0 <= weight <= 1e12 or arm in found:
            raise Misconfigured(f"{word!r}: write one weight for each arm, such as v1=90")
        found[arm] = weight
    if not sum(found.values()) > 0.0:
        raise Misconfigured("the weights sum to 0: give at least one arm a weight above 0")
    return found


def _steer(
    settings: Path,
    broker: str,
    name: str,
    word: Word,
    weights: Mapping[str, float],
    *,
    author: str,
    wait_s: float,
    yes: bool,
) -> None:
    """Ask for confirmation, send the command, wait for a snapshot that follows it, and print the change.

    The broker is not connected while the question waits for its answer.
    """
    installation = started_installation(settings, overrides(broker__url=broker))
    before = with_broker(installation, lambda connection: inspect_endpoint(connection, name))
    _check(before.endpoint, word, weights)
    if not confirm(_question(before, word, weights), yes=yes):
        return
    command = OperatorCommand(
        word=word, author=author or _user(), at_us=now_us(), weights=weights, experiment=experiment_of(before.endpoint)
    )

    async def work(connection: Broker) -> SnapshotRecord:
        with errors.status(f"waiting for a snapshot of {escape(name)} that follows"):
            routed = await wait_for_leader(connection, name)
            return await send_command(
                connection, routed, command, lambda snapshot: follows(snapshot, command, before.endpoint), wait_s
            )

    _print_change(before, with_broker(installation, work))


def follows(snapshot: SnapshotRecord, command: OperatorCommand, endpoint: Endpoint) -> bool:
    """Return True if a snapshot follows an operator command."""
    if command.word == "pause":
        return snapshot.phase.endswith(HELD)
    if command.word == "resume":
        return not snapshot.phase.endswith(HELD)
    if command.word == "set":
        total = sum(command.weights.values())
        wanted = [command.weights.get(arm, 0.0) / total for arm in endpoint.arms]
        close = all(abs(one - other) < CLOSE for one, other in zip(snapshot.weights, wanted, strict=False))
        return close and snapshot.phase.endswith(HELD[1])
    return snapshot.phase in ENDS[command.word]  # `promote` and `abort` also end a pause


def _check(endpoint: Endpoint, word: Word, weights: Mapping[str, float]) -> None:
    """Raise Misconfigured for a command that does not apply to this endpoint's policy."""
    config, policy, name = read_config(endpoint), read_policy(endpoint), endpoint.endpoint
    if config is None or not policy.learns:
        raise Misconfigured(
            f"endpoint {name}: its policy is {policy.name}, which does not learn: change its declaration"
        )
    if word in ENDS and word not in config.commands:
        raise Misconfigured(f"endpoint {name}: its policy is {policy.name}, to which {word} does not apply")
    for arm in weights:
        if arm not in endpoint.arms:
            raise Misconfigured(f"endpoint {name} has no arm {arm!r}; {nearest(arm, endpoint.arms, what='arms')}")


def _question(before: RoutedEndpoint, word: Word, weights: Mapping[str, float]) -> str:
    config, name = read_config(before.endpoint), before.endpoint.endpoint
    phase = f" ({before.snapshot.phase})" if before.snapshot is not None else ""
    if word == "set":
        return f"set the weights of {name}{phase} to {' '.join(f'{arm}={weight:g}' for arm, weight in weights.items())}"
    subject = name if config is None else config.subject(before.endpoint)
    return f"{word} {subject}{phase}"


def _print_change(before: RoutedEndpoint, snapshot: SnapshotRecord) -> None:
    """Print the phase and the weights before and after."""
    name, old = before.endpoint.endpoint, before.view.router(before.endpoint.endpoint).snapshot.weights
    was = before.snapshot.phase if before.snapshot is not None else "not begun"
    changed = f"{was} -> {snapshot.phase}" if was != snapshot.phase else f"still {snapshot.phase}"
    console.print(f"endpoint {name}: {changed}", highlight=False, markup=False, soft_wrap=True)
    for arm, one, other in zip(before.endpoint.arms, old, snapshot.weights, strict=False):
        moved = f"{one:.4g} -> {other:.4g}" if abs(one - other) > CLOSE else f"{other:.4g}, as before"
        console.print(f"  {arm}: {moved}", highlight=False, markup=False)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
