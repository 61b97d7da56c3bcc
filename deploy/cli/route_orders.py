"""`millrace route pause | resume | promote | abort | set`: what a person wants of an experiment."""

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
    confirmed,
    connected,
    console,
    errors,
    looked_at,
    overrides,
)
from deploy.operations.route_commands import RoutedEndpoint, give, look_at, look_at_led
from router.declaration.policy import read_config
from router.kinds.canary import CanaryConfig
from router.policies.declared import read_policy

CLOSE = 1e-6
HELD = ("(paused)", "(set by hand)")
ENDS: Mapping[str, tuple[str, ...]] = {"promote": ("promoted",), "abort": ("aborted", "ended without a winner")}
DOES = {
    "pause": "Keep the weights as they are; what is learnt is kept, and counts when it goes on.",
    "resume": "Let the weights follow what is learnt again, after `pause` or `set`.",
    "promote": "Give a canary all of the traffic, proven or not.",
    "abort": "Take a canary back, or end interleaving with the first ranker alone.",
}

Author = Annotated[str, typer.Option("--author", help="Who wants it; it is logged. Your user name if not said.")]
Wait = Annotated[float, typer.Option("--wait", help="Seconds until a snapshot has to follow.", min=0.1)]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for word in ("pause", "resume", "promote", "abort"):
        app.command(word, help=DOES[word], epilog=f"Example: millrace route {word} fraud")(_one(word))
    app.command("set", epilog="Example: millrace route set fraud v1=90 v2=10")(set_weights)


def _one(word: Word) -> Callable[..., None]:
    def command(
        endpoint: EndpointName,
        yes: Yes = False,
        author: Author = "",
        wait: Wait = 30.0,
        settings: SettingsPath = DEFAULT_SETTINGS,
        broker: BrokerUrl = "",
    ) -> None:
        _order(settings, broker, endpoint, word, {}, author=author, wait_s=wait, yes=yes)

    return command


def set_weights(
    endpoint: EndpointName,
    weights: Annotated[list[str], typer.Argument(metavar="ARM=WEIGHT...", help="Weights; other arms get nothing.")],
    yes: Yes = False,
    author: Author = "",
    wait: Wait = 30.0,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
) -> None:
    """Give arms weights by hand, until `resume`."""
    _order(settings, broker, endpoint, "set", read_weights(weights), author=author, wait_s=wait, yes=yes)


def read_weights(words: list[str]) -> dict[str, float]:
    """Read arm=weight; raises Misconfigured."""
    found = dict[str, float]()
    for word in words:
        arm, equals, text = word.partition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not equals or not 0.0 <= weight <= 1e12 or arm in found:
            raise Misconfigured(f"{word!r}: weights are written once for each arm, such as v1=90")
        found[arm] = weight
    if not sum(found.values()) > 0.0:
        raise Misconfigured("the weights sum to 0; give at least one arm some")
    return found


def _order(
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
    """Ask, order, wait, and say what changed; the connection is not held while a person thinks."""
    place = looked_at(settings, overrides(broker__url=broker))
    before = connected(place, lambda connection: look_at(connection, name))
    _check(before.endpoint, word, weights)
    if not confirmed(_question(before, word, weights), yes=yes):
        return
    order = OperatorCommand(
        word=word, author=author or _user(), at_us=now_us(), weights=weights, experiment=experiment_of(before.endpoint)
    )

    async def work(connection: Broker) -> SnapshotRecord:
        with errors.status(f"waiting for a snapshot of {escape(name)} that follows"):
            routed = await look_at_led(connection, name)
            return await give(connection, routed, order, lambda said: follows(said, order, before.endpoint), wait_s)

    _say(before, connected(place, work))


def follows(said: SnapshotRecord, order: OperatorCommand, endpoint: Endpoint) -> bool:
    """Tell whether a snapshot is one that obeys an order."""
    if order.word == "pause":
        return said.phase.endswith(HELD)
    if order.word == "resume":
        return not said.phase.endswith(HELD)
    if order.word == "set":
        total = sum(order.weights.values())
        wanted = [order.weights.get(arm, 0.0) / total for arm in endpoint.arms]
        close = all(abs(one - other) < CLOSE for one, other in zip(said.weights, wanted, strict=False))
        return close and said.phase.endswith(HELD[1])
    return said.phase in ENDS[order.word]  # held by no hand any more


def _check(endpoint: Endpoint, word: Word, weights: Mapping[str, float]) -> None:
    """Raise Misconfigured for an order that this endpoint's policy cannot obey."""
    config, policy, name = read_config(endpoint), read_policy(endpoint), endpoint.endpoint
    if config is None or not policy.learns:
        raise Misconfigured(
            f"endpoint {name}: its policy is {policy.name}, which does not learn: change its declaration"
        )
    if word in ENDS and word not in config.commands:
        raise Misconfigured(f"endpoint {name}: its policy is {policy.name}, which has nothing to {word}")
    for arm in weights:
        if arm not in endpoint.arms:
            raise Misconfigured(f"endpoint {name} has no arm {arm!r}; {nearest(arm, endpoint.arms, what='arms')}")


def _question(before: RoutedEndpoint, word: Word, weights: Mapping[str, float]) -> str:
    config, name = read_config(before.endpoint), before.endpoint.endpoint
    phase = f" ({before.said.phase})" if before.said is not None else ""
    if word == "set":
        return f"set the weights of {name}{phase} to {' '.join(f'{arm}={weight:g}' for arm, weight in weights.items())}"
    what = f"{config.canary} of {name}" if isinstance(config, CanaryConfig) else name
    return f"{word} {what}{phase}"


def _say(before: RoutedEndpoint, said: SnapshotRecord) -> None:
    """Print the phase and the weights before and after."""
    name, old = before.endpoint.endpoint, before.view.router(before.endpoint.endpoint).snapshot.weights
    was = before.said.phase if before.said is not None else "not begun"
    changed = f"{was} -> {said.phase}" if was != said.phase else f"still {said.phase}"
    console.print(f"endpoint {name}: {changed}", highlight=False, markup=False, soft_wrap=True)
    for arm, one, other in zip(before.endpoint.arms, old, said.weights, strict=False):
        moved = f"{one:.4g} -> {other:.4g}" if abs(one - other) > CLOSE else f"{other:.4g}, as before"
        console.print(f"  {arm}: {moved}", highlight=False, markup=False)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody"
