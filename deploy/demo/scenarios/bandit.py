"""A bandit finds the better of two classifiers while it serves; labels arrive up to a minute late."""

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
FEW = 60  # training images of the weak classifier, which gets about two digits of three right
GAP = 0.15
PER_S = 100.0
LATEST = 60.0
BLOCK = 100
SHARE = 0.8

# The claim fails by chance with a probability below 1e-3. There are 5 requests per event second, and no reward counts
# in the first 60, so at least the first 300 requests are split evenly. Each arm then has about 150 rewards (always more
# than 100), and the standard deviation of a mean is at most .04. The share falls below 80 % only if the posterior gives
# the weak arm more than 20 %, for which the observed gap must be below .9 deviations. That is 3.7 deviations below GAP
# and has a probability of 1e-4; with the trained models' gap of .3 it is 1e-11. The policy's floor adds .2 %.
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
    """Sends `requests` and claims that the last quarter of them goes to the better arm."""

    requests: int = 2000
    seed: int = SEED
    tick: str = "50ms"

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        return {ENDPOINT: ARMS}

    @property
    def models(self) -> tuple[str, ...]:
        return ARMS

    def prepare(self, folder: Path, steps: Steps) -> None:
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
        random = np.random.default_rng(self.seed)
        digits = shuffled(load()[1], self.requests, random)
        sender = LabelledTraffic(stage, ENDPOINT, digits, random.uniform(0.0, LATEST, self.requests))
        await stage.wait_for_learner([ENDPOINT])
        with stage.steps.step("digits, half by HTTP and half through the queue", self.requests) as advance:
            await paced(PER_S, range(self.requests), lambda number: sender.one(number, lambda: advance(1)))
        with stage.steps.step("rows in the event log", self.requests) as advance:
            await stage.read_rows(ENDPOINT, sender.legs(), sender.accepted, advance)
        stage.show(_picture(sender, self.requests))
        _print_table(stage, sender)
        return [self._claim(sender), once_claim(self.requests, stage.exactly_once(ENDPOINT, sender.tally))]

    def _claim(self, sender: LabelledTraffic) -> ScenarioClaim:
        last = self.requests // 4
        share = _share(sender, range(self.requests - last, self.requests))
        text = f"{share:.1%} of the last {last} requests went to {STRONG}, the better arm; more than {SHARE:.0%} must"
        return ScenarioClaim(text, share > SHARE)


def _share(sender: LabelledTraffic, numbers: range) -> float:
    """The share of the requests with these numbers that the better arm answered."""
    arms = [answer.arm for answer in sender.tally.answers if answer.number in numbers]
    return arms.count(STRONG) / max(1, len(arms))


def _picture(sender: LabelledTraffic, requests: int) -> Picture:
    blocks = [range(first, min(first + BLOCK, requests)) for first in range(0, requests, BLOCK)]
    shares = [(block.start + len(block) / 2, _share(sender, block)) for block in blocks]
    weights = [(float(number), weights[1]) for number, weights in sorted(sender.weights.items()) if weights]
    return Picture(
        title=f"Where requests go: the share of {STRONG}, the better arm",
        x=(0, requests),
        y=(0.0, 1.0),
        x_name="requests",
        percent=True,
        lines=[
            PlotLine(name="published weight", mark="─", points=weights, steps=True),
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
    stage.console.print(f"labels accepted as feedback: {sender.accepted}", highlight=False)
