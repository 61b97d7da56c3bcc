"""Three canaries of the same good model: one gives wrong answers, one kills its processor, one is good."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

from broker.records.routing import SnapshotRecord
from deploy.demo.digits import SEED, Digits, load
from deploy.demo.folder import write_endpoint
from deploy.demo.progress import Steps
from deploy.demo.scenarios.claims import ScenarioClaim
from deploy.demo.scenarios.labelled import LabelledTraffic, shuffled
from deploy.demo.scenarios.models import accuracy, classifier_config, spoilt, trained, write_script
from deploy.demo.scenarios.nearest import DEADLY, write_nearest
from deploy.demo.scenarios.plot import Picture, PlotArea
from deploy.demo.scenarios.scenario import UnfitModels
from deploy.demo.scenarios.stage import ScenarioStage, once_claim
from deploy.demo.tally import Tally
from deploy.demo.train import cnn

BROKEN, CRASHING, GOOD = "broken", "crashing", "good"
CANARIES = (BROKEN, CRASHING, GOOD)
STABLE = "stable"
ARMS = ("v1", "v2")
CANARY = 1  # the index of v2
GUARDRAILS = ("failed", "right")
SPOILT_EVERY = 5
LIKE = 0.015
MAX_BATCH = 16
PER_S = 40.0  # to each endpoint
LATEST = 5.0
END_WITHIN_S = 10.0
TYPED = ("ok", "failed", "expired")

# A claim fails by chance with a probability below 1e-3. The good canary is rolled back with a probability of at most
# alpha. In 4,000 simulated runs of 1,200 requests (accuracies .98 and .97, rewards 3.4 s late) it was promoted after at
# most 820 requests, and a canary with accuracy .79 was rolled back by its reward after at most 1,050. The crashing
# canary gets at least 120 requests. One in five is deadly, and kills the processor twice: in its batch, and alone in
# the retry queue. Four deadly requests (fewer have a probability below 1e-6) stop the processor for increasing pauses
# of 12 s in total, while 4 requests per second expire. Seven failures of the canary, with none of the stable arm, are
# enough for the guardrail.
DECLARATION = """\
endpoint: %(name)s
arms: {v1: stable@1, v2: %(name)s@1}
deadline: %(deadline)s
retry: {attempts: 1}
feedback:
  rewards:
    right: {from: truth, score: argmax, horizon: 30s}
policy:
  canary: v2
  stable: v1
  steps: [10%%, 25%%, 50%%]
  hold: {canary_requests: 20, time: 15s}
  guardrails:
    - {bad: failed, max_rate: 10%%}
    - {reward: right, max_drop: 20%%}
  alpha: 0.05%%
"""
DEADLINES = {BROKEN: "30s", CRASHING: "2s", GOOD: "30s"}


@dataclass(slots=True, kw_only=True)
class CanaryScenario:
    """Sends `requests` to each of the three endpoints."""

    requests: int = 1200
    seed: int = SEED
    tick: str = "100ms"
    _began_s: float = field(default=0.0, init=False)

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(CANARIES, ARMS)

    @property
    def models(self) -> tuple[str, ...]:
        return (STABLE, *CANARIES)

    def prepare(self, folder: Path, steps: Steps) -> None:
        learn, held_out = load()
        stable = trained(steps, "the stable model", cnn, learn, self.seed)
        good = trained(steps, "another good one", cnn, learn, self.seed + 1)
        scripts = {STABLE: stable, GOOD: good, BROKEN: spoilt(stable, SPOILT_EVERY)}
        _check(scripts, held_out)
        for model, script in scripts.items():
            write_script(folder, model, script, classifier_config(model, "pytorch", MAX_BATCH))
        write_nearest(folder, CRASHING, learn, classifier_config(CRASHING, "python", MAX_BATCH), DEADLY)
        for name in CANARIES:
            write_endpoint(folder, name, DECLARATION % {"name": name, "deadline": DEADLINES[name]})

    async def play(self, stage: ScenarioStage) -> list[ScenarioClaim]:
        random = np.random.default_rng(self.seed)
        senders = [self._sender(stage, name, random) for name in CANARIES]
        await stage.wait_for_learner(CANARIES)
        self._began_s = time.monotonic()
        with stage.steps.step("digits to three endpoints", len(senders) * self.requests) as advance:
            await asyncio.gather(*[sender.send_all(PER_S, self.requests, lambda: advance(1)) for sender in senders])
        for sender in senders:
            await stage.learner.end(sender.endpoint, END_WITHIN_S)
        with stage.steps.step("rows in the event logs", len(senders) * self.requests) as advance:
            for sender in senders:
                await stage.read_rows(sender.endpoint, sender.legs(), sender.accepted, advance)
        stage.show(*[self._picture(stage, sender) for sender in senders])
        _print_table(stage, senders)
        return self._claims(stage, senders)

    def _sender(self, stage: ScenarioStage, name: str, random: np.random.Generator) -> LabelledTraffic:
        digits = shuffled(load()[1], self.requests, random)
        return LabelledTraffic(stage, name, digits, random.uniform(0.0, LATEST, self.requests))

    def _claims(self, stage: ScenarioStage, senders: list[LabelledTraffic]) -> list[ScenarioClaim]:
        ends = [
            ScenarioClaim(f"{name} {end}", end == wanted)
            for name, wanted in zip(CANARIES, (_aborted("right"), _aborted("failed"), "was promoted"), strict=True)
            for end in [how_it_ended(stage.learner.newest(name))]
        ]
        complaints = [complaint for sender in senders for complaint in _complaints(stage, sender)]
        again = len(stage.repeats(CRASHING))
        note = f" ({again} answers were repeated after a crash, with the same message_id)" if again else ""
        return [*ends, once_claim(len(senders) * self.requests, complaints, note)]

    def _picture(self, stage: ScenarioStage, sender: LabelledTraffic) -> Picture:
        snapshots = stage.learner.snapshots(sender.endpoint)
        points = [(max(0.0, timed.at_s - self._began_s), timed.snapshot.weights[CANARY]) for timed in snapshots]
        return Picture(
            title=f"{sender.endpoint}: {how_it_ended(stage.learner.newest(sender.endpoint))}",
            x=(0.0, self.requests / PER_S),
            y=(0.0, 1.0),
            x_name="seconds",
            percent=True,
            height=5,
            legend=False,
            areas=[PlotArea(name="share of the canary", points=points)],
        )


def how_it_ended(snapshot: SnapshotRecord | None) -> str:
    """Describe the end of a canary, from the learner's last snapshot."""
    if snapshot is None:
        return "has no snapshot"
    if snapshot.phase == "aborted":
        tripped = snapshot.about.get("tripped")
        return _aborted("an operator" if tripped is None else GUARDRAILS[tripped])
    return "was promoted" if snapshot.phase == "promoted" else f"is at {snapshot.phase}"


def _aborted(guardrail: str) -> str:
    return f"was rolled back by the guardrail on {guardrail}"


def _check(scripts: dict[str, bytes], held_out: Digits) -> None:
    right = {model: accuracy(script, held_out) for model, script in scripts.items()}
    if abs(right[GOOD] - right[STABLE]) > LIKE or right[STABLE] - right[BROKEN] < 10 * LIKE:
        shares = ", ".join(f"{model} {share:.1%}" for model, share in right.items())
        raise UnfitModels(
            f"held-out accuracies {shares}: {GOOD} and {STABLE} may differ by {LIKE:.1%}, {BROKEN} must be far below"
        )


def _complaints(stage: ScenarioStage, sender: LabelledTraffic) -> list[str]:
    name, tally = sender.endpoint, sender.tally
    found = stage.ended_once(name, tally, TYPED) if name == CRASHING else stage.exactly_once(name, tally)
    return [f"{name}: {complaint}" for complaint in found]


def _print_table(stage: ScenarioStage, senders: list[LabelledTraffic]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("canary", "arm", *TYPED, "accuracy", "p50 / p99 ms", "came\ntwice"):
        table.add_column(column, justify="left" if column in ("canary", "arm") else "right")
    for sender in senders:
        repeats = stage.repeats(sender.endpoint)
        for arm in ARMS:
            again = sum(reply.arm == arm for reply in repeats)
            table.add_row(sender.endpoint, arm, *_cells(sender.tally, arm), str(again))
    stage.console.print()
    stage.console.print(table)
    accepted = sum(sender.accepted for sender in senders)
    stage.console.print(f"labels accepted as feedback: {accepted}", highlight=False)


def _cells(tally: Tally, arm: str) -> list[str]:
    ends = Counter(answer.word for answer in tally.answers if answer.arm == arm)
    times = [1000 * answer.latency_s for answer in tally.of(arm)]
    percentiles = f"{np.percentile(times, 50):.0f} / {np.percentile(times, 99):.0f}" if times else ""
    return [*[str(ends[word]) for word in TYPED], f"{tally.accuracy(arm):.1%}", percentiles]
