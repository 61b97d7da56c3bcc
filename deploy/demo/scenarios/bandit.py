"""A bandit finds the better of two classifiers while it serves, from labels that come up to a minute late."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from deploy.demo.digits import SEED, Digits, load
from deploy.demo.folder import write_endpoint, write_models
from deploy.demo.pace import paced
from deploy.demo.progress import Steps
from deploy.demo.scenarios.claims import ScenarioClaim
from deploy.demo.scenarios.labelled import LabelledTraffic, shuffled
from deploy.demo.scenarios.models import accuracy, trained
from deploy.demo.scenarios.plot import Picture, PlotLine
from deploy.demo.scenarios.scenario import UnfitModels
from deploy.demo.scenarios.stage import ScenarioStage, once_claim
from deploy.demo.train import cnn, linear

ENDPOINT = "digits"
WEAK, STRONG = "weak", "strong"
ARMS = (WEAK, STRONG)
FEW = 60  # images that the weak classifier learns from: it tells about two digits of three
GAP = 0.15
PER_S = 100.0
LATEST = 60.0
BLOCK = 100
SHARE = 0.8

# The claim fails by chance with a probability below 1e-3. Requests come 5 an event second, so at least the first 300
# are drawn half and half: 150 rewards an arm (never below 100), and their means err by a deviation of at most .04.
# For less than 80 % the posterior has to give the weak arm 20 %, so the observed gap has to be below .9 deviations
# after that: 3.7 deviations of .04 below GAP, a probability of 1e-4; with the gap of .3 that is trained here, 1e-11.
# Behind that stands the floor of .2 %.
DECLARATION = f"""\
endpoint: {ENDPOINT}
arms: {{{WEAK}: {WEAK}@1, {STRONG}: {STRONG}@1}}
feedback:
  rewards:
    right: {{from: truth, score: argmax, horizon: 61s}}
policy: {{bandit: thompson, reward: right}}
"""


@dataclass(slots=True, kw_only=True)
class BanditScenario:
    """`requests` of which the last quarter has to go to the better arm."""

    requests: int = 2000
    seed: int = SEED
    tick: str = "50ms"

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        """See the protocol."""
        return {ENDPOINT: ARMS}

    @property
    def models(self) -> tuple[str, ...]:
        """See the protocol."""
        return ARMS

    def prepare(self, folder: Path, steps: Steps) -> None:
        """See the protocol."""
        learn, held_out = load()
        few = Digits(learn.images[:FEW], learn.labels[:FEW])
        scripts = {
            WEAK: trained(steps, "a weak linear classifier", linear, few, self.seed),
            STRONG: trained(steps, "a strong convolutional one", cnn, learn, self.seed),
        }
        weak, strong = (accuracy(scripts[arm], held_out) for arm in ARMS)
        if strong - weak < GAP:
            raise UnfitModels(f"held-out accuracy {strong:.1%} and {weak:.1%}: a gap of at least {GAP:.0%} is needed")
        write_models(folder, scripts)
        write_endpoint(folder, ENDPOINT, DECLARATION)

    async def play(self, stage: ScenarioStage) -> list[ScenarioClaim]:
        """See the protocol."""
        random = np.random.default_rng(self.seed)
        digits = shuffled(load()[1], self.requests, random)
        sender = LabelledTraffic(stage, ENDPOINT, digits, random.uniform(0.0, LATEST, self.requests))
        await stage.wait_for_learner([ENDPOINT])
        with stage.steps.step("digits, half by HTTP and half through the queue", self.requests) as advance:
            await paced(PER_S, range(self.requests), lambda number: sender.one(number, lambda: advance(1)))
        with stage.steps.step("rows in the event log", self.requests) as advance:
            await stage.read_rows(ENDPOINT, sender.legs(), sender.told, advance)
        stage.show(_picture(sender, self.requests))
        _print_table(stage, sender)
        return [self._claim(sender), once_claim(self.requests, stage.exactly_once(ENDPOINT, sender.tally))]

    def _claim(self, sender: LabelledTraffic) -> ScenarioClaim:
        last = self.requests // 4
        share = _share(sender, range(self.requests - last, self.requests))
        said = (
            f"{share:.1%} of the last {last} requests went to {STRONG}, the better arm; more than {SHARE:.0%} have to"
        )
        return ScenarioClaim(said, share > SHARE)


def _share(sender: LabelledTraffic, numbers: range) -> float:
    """Return the share of requests with these numbers that the better arm answered."""
    arms = [answer.arm for answer in sender.tally.answers if answer.number in numbers]
    return arms.count(STRONG) / max(1, len(arms))


def _picture(sender: LabelledTraffic, requests: int) -> Picture:
    blocks = [range(first, min(first + BLOCK, requests)) for first in range(0, requests, BLOCK)]
    shares = [(block.start + len(block) / 2, _share(sender, block)) for block in blocks]
    said = [(float(number), weights[1]) for number, weights in sorted(sender.weights.items()) if weights]
    return Picture(
        title=f"Where requests go: the share of {STRONG}, the better arm",
        x=(0, requests),
        y=(0.0, 1.0),
        x_name="requests",
        percent=True,
        lines=[
            PlotLine(name="published weight", mark="─", points=said, steps=True),
            PlotLine(name=f"share of each {BLOCK} requests", mark="●", points=shares),
        ],
    )


def _print_table(stage: ScenarioStage, sender: LabelledTraffic) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("arm", "requests", "accuracy", "first half", "second half"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    middle = sender.tally.sent // 2
    for arm in ARMS:
        first = sum(answer.number < middle for answer in sender.tally.of(arm))
        count = len(sender.tally.of(arm))
        table.add_row(arm, str(count), f"{sender.tally.accuracy(arm):.1%}", str(first), str(count - first))
    stage.console.print()
    stage.console.print(table)
    stage.console.print(f"labels accepted as feedback: {sender.told}", highlight=False)
