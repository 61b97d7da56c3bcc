"""Tries a slow shadow on real traffic, and compares answers and latencies with and without it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

from broker.errors import Unavailable
from deploy.demo.digits import SEED, Digits, load
from deploy.demo.folder import write_endpoint
from deploy.demo.pace import paced
from deploy.demo.progress import Steps
from deploy.demo.scenarios.claims import ScenarioClaim
from deploy.demo.scenarios.labelled import shuffled
from deploy.demo.scenarios.models import classifier_config, trained, write_script
from deploy.demo.scenarios.nearest import SLOW, write_nearest
from deploy.demo.scenarios.plot import Picture, PlotLine
from deploy.demo.scenarios.shadow_log import SHADOW, ShadowLog, shadow_log
from deploy.demo.scenarios.stage import ScenarioStage, once_claim
from deploy.demo.tally import Tally
from deploy.demo.train import cnn
from deploy.demo.wire import DemoReply, ask

ENDPOINT = "digits"
PRIMARY, SLEEPY = "primary", "sleepy"
ARMS = ("v1", "v2")
ON, OFF = "on", "off"
PAIRS = ((ON, OFF), (OFF, ON), (ON, OFF), (OFF, ON))  # alternating, so that drift affects both
PER_S = 60.0
PROBE_WITHIN_S = 10.0
PROBES = 60
POLICIES = {ON: "{shadow: v2, serve: v1}", OFF: "{split: [v1]}"}
PERCENTILES = (50, 99)
DECLARATION = """\
endpoint: digits
arms: {v1: primary@1, v2: sleepy@1}
policy: %s
"""


@dataclass(frozen=True, slots=True)
class Block:
    """The replies to one block of requests, by the number within the block; `shadow` is ON or OFF."""

    shadow: str
    replies: dict[int, DemoReply] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ShadowScenario:
    """Sends `requests` in four pairs of blocks; both blocks of a pair have the same inputs."""

    requests: int = 960
    seed: int = SEED
    tick: str = "1s"
    folder: Path = field(default=Path(), init=False)
    pairs: list[tuple[Block, Block]] = field(default_factory=list, init=False)

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        return {ENDPOINT: ARMS}

    @property
    def models(self) -> tuple[str, ...]:
        return PRIMARY, SLEEPY

    @property
    def block(self) -> int:
        """The number of requests in a block: a multiple of four, so that twins are sent in the same way and form."""
        return max(4, self.requests // (2 * len(PAIRS)) // 4 * 4)

    def prepare(self, folder: Path, steps: Steps) -> None:
        learn, _ = load()
        self.folder = folder
        # Batches of one image: floating-point sums depend on the size of a batch, and the answers' bytes are compared.
        script = trained(steps, "the model that answers", cnn, learn, self.seed)
        write_script(folder, PRIMARY, script, classifier_config(PRIMARY, "pytorch", 1))
        write_nearest(folder, SLEEPY, learn, classifier_config(SLEEPY, "python", 32), SLOW)
        write_endpoint(folder, ENDPOINT, DECLARATION % POLICIES[ON])

    async def play(self, stage: ScenarioStage) -> list[ScenarioClaim]:
        digits = shuffled(load()[1], len(PAIRS) * self.block, np.random.default_rng(self.seed))
        probes = Probes(stage, digits)
        async with shadow_log(stage.broker, ENDPOINT) as log:
            for number, order in enumerate(PAIRS):
                first, second = [await self._block(stage, log, probes, number, shadow, digits) for shadow in order]
                self.pairs.append((first, second) if order[0] == ON else (second, first))
            ids = [*probes.ids, *[reply.request_id for block in self._blocks() for reply in block.replies.values()]]
            for request_id in ids:
                await log.policy_of(request_id, PROBE_WITHIN_S)
            legs = {request_id: log.legs(request_id) for request_id in ids}
            with stage.steps.step("rows in the event log, of both legs", sum(legs.values())) as advance:
                await stage.read_rows(ENDPOINT, legs, 0, advance)
        stage.show(self._picture())
        self._print_tables(stage, log)
        return self._claims(stage, log)

    def _blocks(self) -> list[Block]:
        return [block for pair in self.pairs for block in pair]

    async def _block(
        self, stage: ScenarioStage, log: ShadowLog, probes: Probes, pair: int, shadow: str, digits: Digits
    ) -> Block:
        """Declare the endpoint, wait until gateway and router follow, and send one block."""
        write_endpoint(self.folder, ENDPOINT, DECLARATION % POLICIES[shadow])
        await probes.until(log, shadow)
        block = Block(shadow)
        offset = (2 * pair + (shadow == ON)) * self.block  # twins have different ids, which are not in an answer's body

        async def one(at: int) -> None:
            image = digits.images[pair * self.block + at]
            reply = await stage.send(ask(ENDPOINT, image, offset + at))
            if reply is not None:
                block.replies[at] = reply
                advance(1)

        title = f"block {2 * pair + 1 + (shadow != PAIRS[pair][0])}, shadow {shadow}"
        with stage.steps.step(title, self.block) as advance:
            await paced(PER_S, range(self.block), one)
        return block

    def _claims(self, stage: ScenarioStage, log: ShadowLog) -> list[ScenarioClaim]:
        twins = [(on.replies.get(at), off.replies.get(at)) for on, off in self.pairs for at in range(self.block)]
        equal = sum(one is not None and other is not None and one.body == other.body for one, other in twins)
        tally = Tally(np.zeros(2 * len(twins)))
        tally.take_all(reply for block in self._blocks() for reply in block.replies.values())
        shadowed = [log.legs(reply.request_id) for on, _ in self.pairs for reply in on.replies.values()]
        alone = [log.legs(reply.request_id) for _, off in self.pairs for reply in off.replies.values()]
        complaints = stage.exactly_once(ENDPOINT, tally)
        return [
            ScenarioClaim(f"{equal} of {len(twins)} pairs of answers are equal, byte for byte", equal == len(twins)),
            ScenarioClaim(
                f"{shadowed.count(2)} of {len(shadowed)} requests were shadowed with it on, "
                f"{alone.count(2)} of {len(alone)} with it off",
                shadowed.count(2) == len(shadowed) and alone.count(2) == 0,
            ),
            once_claim(2 * len(twins), complaints),
        ]

    def _latencies_ms(self, shadow: str) -> list[float]:
        blocks = [block for block in self._blocks() if block.shadow == shadow]
        return [1000 * reply.latency_s for block in blocks for reply in block.replies.values()]

    def _picture(self) -> Picture:
        lines = []
        for shadow, mark in ((OFF, "●"), (ON, "○")):
            points = [(float(at), float(np.percentile(self._latencies_ms(shadow), at))) for at in range(1, 100, 2)]
            lines.append(PlotLine(name=f"shadow {shadow}", mark=mark, points=points))
        top = max(value for line in lines for _, value in line.points)
        return Picture(
            title="Milliseconds to the answer by percentile, with a slow shadow and without",
            x=(0.0, 100.0),
            y=(0.0, top),
            x_name="percent of requests that are faster",
            lines=lines,
        )

    def _print_tables(self, stage: ScenarioStage, log: ShadowLog) -> None:
        on, off = self._latencies_ms(ON), self._latencies_ms(OFF)
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("answers", "shadow on", "shadow off", "ratio"):
            table.add_column(column, justify="left" if column == "answers" else "right")
        for percent in PERCENTILES:
            with_it, without = float(np.percentile(on, percent)), float(np.percentile(off, percent))
            table.add_row(f"p{percent} ms", f"{with_it:.1f}", f"{without:.1f}", f"{with_it / without:.2f}")
        stage.console.print()
        stage.console.print(table)
        _print_comparison(stage, log)


class Probes:
    """Sends requests to find out when gateway and router follow a declaration."""

    def __init__(self, stage: ScenarioStage, digits: Digits) -> None:
        self.ids: list[str] = []
        self._stage = stage
        self._digits = digits
        self._number = 1_000_000

    async def until(self, log: ShadowLog, shadow: str) -> None:
        """Wait until a request by HTTP and one through the queue follow the declared policy; raises Unavailable."""
        for _ in range(PROBES):
            policies = [await self._policy(log) for _ in range(2)]
            if all((policy == SHADOW) == (shadow == ON) for policy in policies):
                return
        raise Unavailable(f"the endpoint was declared with the shadow {shadow}, but its policies are {policies}")

    async def _policy(self, log: ShadowLog) -> str:
        self._number += 1
        reply = await self._stage.send(ask(ENDPOINT, self._digits.images[0], self._number))
        if reply is None or not reply.is_ok:
            raise Unavailable(f"a request to the primary has no result: {reply and reply.outcome}")
        self.ids.append(reply.request_id)
        return await log.policy_of(reply.request_id, PROBE_WITHIN_S)


def _print_comparison(stage: ScenarioStage, log: ShadowLog) -> None:
    """Print the status of the shadow's legs, its agreement with the primary, and both latencies."""
    pairs = log.pairs()
    ends = Counter(shadow.status for _, shadow in pairs)
    both = [(primary, shadow) for primary, shadow in pairs if primary.status == shadow.status == "ok"]
    agree = np.mean([primary.label == shadow.label for primary, shadow in both]) if both else float("nan")
    times = [1000 * float(np.median([leg.latency_s for leg in legs])) for legs in zip(*both, strict=True)]
    counts = ", ".join(f"{count} {status}" for status, count in ends.most_common())
    stage.console.print(f"\nshadow legs: {counts}; it agrees with the primary on {agree:.1%}", highlight=False)
    if times:
        stage.console.print(f"median time to the row: primary {times[0]:.0f} ms, shadow {times[1]:.0f} ms")
