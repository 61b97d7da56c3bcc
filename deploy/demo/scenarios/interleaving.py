"""Two rankers of similar digits share each list until the users' clicks prove which of them is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

from deploy.demo.digits import SEED, Digits, load
from deploy.demo.folder import write_endpoint
from deploy.demo.pace import paced
from deploy.demo.progress import Steps
from deploy.demo.scenarios.claims import ScenarioClaim
from deploy.demo.scenarios.clicks import clicks_on
from deploy.demo.scenarios.labelled import shuffled
from deploy.demo.scenarios.models import (
    GALLERY,
    blurred_ranker,
    precision,
    ranker_config,
    trained_ranker,
    write_script,
)
from deploy.demo.scenarios.plot import Picture, PlotBand, PlotLine
from deploy.demo.scenarios.scenario import UnfitModels
from deploy.demo.scenarios.stage import ScenarioStage, once_claim
from deploy.demo.tally import Tally
from deploy.demo.wire import DemoReply, DemoRequest, json_request
from router.ranking.merging import RANKERS_PARAMETER

ENDPOINT = "similar"
BLURRED, TRAINED = "blurred", "trained"
ARMS = ("v1", "v2")
BETTER = 1  # the index of v2
MODELS = {"v1": BLURRED, "v2": TRAINED}
FIRST = 10
GAP = 0.3
MAX_BATCH = 32
PER_S = 70.0
LATEST = 5.0
END_WITHIN_S = 15.0
LISTS_A_USER = 1.2
MERGED = RANKERS_PARAMETER.encode()  # stands in the body of a merged list

# The claim fails by chance with a probability below 1e-3. In 3,000 simulated experiments with these rankers, clicks and
# alpha, each was decided after at most 730 of the 833 users, and none for the worse ranker. A wrong decision would need
# a wealth of 200 against the true mean difference of .28 (precision@10 is .93 and .53).
DECLARATION = f"""\
endpoint: {ENDPOINT}
arms: {{v1: {BLURRED}@1, v2: {TRAINED}@1}}
key: parameters.user
feedback:
  rewards:
    clicked: {{default: 0, horizon: 40s}}
policy: {{interleave: [v1, v2], method: team_draft, length: {FIRST}, wait: 5s, credit: clicked, stop: {{alpha: 1%}}}}
"""


@dataclass(slots=True, kw_only=True)
class InterleavingScenario:
    """Sends `requests` for lists; one user in five sends two."""

    requests: int = 1000
    seed: int = SEED
    tick: str = "50ms"
    precisions: dict[str, float] = field(default_factory=dict, init=False)

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        return {ENDPOINT: ARMS}

    @property
    def models(self) -> tuple[str, ...]:
        return BLURRED, TRAINED

    def prepare(self, folder: Path, steps: Steps) -> None:
        learn, held_out = load()
        gallery = learn.take(GALLERY)
        scripts = {BLURRED: blurred_ranker(gallery), TRAINED: trained_ranker(steps, learn, gallery, self.seed)}
        for model, script in scripts.items():
            self.precisions[model] = precision(script, held_out, gallery, FIRST)
            write_script(folder, model, script, ranker_config(model, MAX_BATCH))
        if self.precisions[TRAINED] - self.precisions[BLURRED] < GAP:
            raise UnfitModels(f"precision@{FIRST} {self.precisions}: a gap of at least {GAP} is needed")
        write_endpoint(folder, ENDPOINT, DECLARATION)

    async def play(self, stage: ScenarioStage) -> list[ScenarioClaim]:
        random = np.random.default_rng(self.seed)
        users = Users(stage, shuffled(load()[1], self.requests, random), load()[0].take(GALLERY), self.seed)
        await stage.wait_for_learner([ENDPOINT])
        with stage.steps.step("lists, half by HTTP and half through the queue", self.requests) as advance:
            await paced(PER_S, range(self.requests), lambda number: users.one(number, lambda: advance(1)))
        await stage.learner.end(ENDPOINT, END_WITHIN_S)
        with stage.steps.step("rows in the event log", sum(users.legs.values())) as advance:
            await stage.read_rows(ENDPOINT, users.legs, len(users.clicked), advance)
        stage.show(_picture(stage))
        self._print_table(stage, users)
        return [self._claim(stage), once_claim(self.requests, stage.exactly_once(ENDPOINT, users.tally))]

    def _claim(self, stage: ScenarioStage) -> ScenarioClaim:
        snapshot = stage.learner.newest(ENDPOINT)
        result = stage.learner.result(ENDPOINT)
        phase, weights = (snapshot.phase, snapshot.weights) if snapshot is not None else ("", ())
        alone = tuple(float(place == BETTER) for place in range(len(ARMS)))
        return ScenarioClaim(
            f"the experiment is {phase!r}, with weights {list(weights)} of v1 and v2; by precision@{FIRST} v2 is "
            f"better, {self.precisions[TRAINED]:.2f} to {self.precisions[BLURRED]:.2f}",
            phase == "decided" and weights == alone and result is not None,
        )

    def _print_table(self, stage: ScenarioStage, users: Users) -> None:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("arm", "ranker", f"precision@{FIRST}", "lists with it", "lists of it alone"):
            table.add_column(column, justify="left" if column in ("arm", "ranker") else "right")
        for arm in ARMS:
            lists = [answer.arm.split("+") for answer in users.tally.answers]
            shared, alone = sum(arm in made and len(made) > 1 for made in lists), sum(made == [arm] for made in lists)
            table.add_row(arm, MODELS[arm], f"{self.precisions[MODELS[arm]]:.3f}", str(shared), str(alone))
        stage.console.print()
        stage.console.print(table)
        snapshot = stage.learner.newest(ENDPOINT)
        about = snapshot.about if snapshot is not None else {}
        stage.console.print(
            f"votes: {about.get('votes', 0)}, clicks accepted: {users.clicks}, users: {users.count}", highlight=False
        )


class Users:
    """Simulated users who request a list and click the images of their digit; each has a key."""

    def __init__(self, stage: ScenarioStage, queries: Digits, gallery: Digits, seed: int) -> None:
        self.tally = Tally(queries.labels)
        self.count = max(1, round(len(queries.labels) / LISTS_A_USER))
        self.legs: dict[str, int] = {}
        self.clicked: set[str] = set()
        self.clicks = 0
        self._stage = stage
        self._queries = queries
        self._gallery = gallery
        self._seed = seed

    async def one(self, number: int, on_answer: Callable[[], None]) -> None:
        """Request a list and click in it."""
        body, headers = json_request(self._queries.images[number], {"user": f"user {number % self.count}"})
        reply = await self._stage.send(DemoRequest(number=number, endpoint=ENDPOINT, body=body, headers=headers))
        if reply is None:
            return
        self.tally.take(reply)
        self.legs[reply.request_id] = len(ARMS) if MERGED in reply.body else 1
        on_answer()
        if reply.is_ok:
            await self._click(reply)

    async def _click(self, reply: DemoReply) -> None:
        random = np.random.default_rng([self._seed, reply.number])
        items = [int(item) for item in reply.output()]
        relevant = self._gallery.labels[items] == self._queries.labels[reply.number]
        await self._stage.event_seconds(random.uniform(0.0, LATEST))
        for place in clicks_on(relevant, random):
            item = str(items[place])
            if await self._stage.by_http.send_feedback(ENDPOINT, reply.request_id, values={"clicked": 1}, item=item):
                self.clicks += 1
                self.clicked.add(reply.request_id)


def _picture(stage: ScenarioStage) -> Picture:
    """Draw v2's advantage in credit by votes; the sign is changed, as snapshots have v1 minus v2."""
    abouts = [timed.snapshot.about for timed in stage.learner.snapshots(ENDPOINT)]
    seen = {int(about["votes"]): about for about in abouts if about.get("votes")}
    points = [(float(votes), -about["difference"][0]) for votes, about in sorted(seen.items())]
    limits = [(float(votes), -about["high"][0], -about["low"][0]) for votes, about in sorted(seen.items())]
    return Picture(
        title="Credit of v2, the better ranker, minus credit of v1, for each list",
        x=(0.0, max([votes for votes, _ in points], default=1.0)),
        y=(-1.0, 1.0),
        x_name="votes",
        marked=(0.0,),
        height=15,
        areas=[PlotBand(name="its limits, valid with 99% at all times", mark="░", points=limits)],
        lines=[PlotLine(name="mean difference", mark="●", points=points, steps=True)],
    )
