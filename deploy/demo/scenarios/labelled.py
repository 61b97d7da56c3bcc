"""Sends held-out digits to one endpoint, and the true label of each as feedback."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deploy.demo.digits import Digits
from deploy.demo.pace import paced
from deploy.demo.scenarios.stage import ScenarioStage
from deploy.demo.tally import Tally
from deploy.demo.wire import build_request


class LabelledTraffic:
    """Sends one digit for each number, and its label `delays[number]` event seconds after the result."""

    def __init__(self, stage: ScenarioStage, endpoint: str, digits: Digits, delays: np.ndarray) -> None:
        self.stage = stage
        self.endpoint = endpoint
        self.tally = Tally(digits.labels)
        self.accepted = 0
        self.weights: dict[int, tuple[float, ...]] = {}  # by number: the published weights at the time of its answer
        self._digits = digits
        self._delays = delays

    async def send_all(self, per_s: float, requests: int, on_answer: Callable[[], None]) -> None:
        """Send `requests` digits at a rate of `per_s`, each with its label."""
        await paced(per_s, range(requests), lambda number: self._send_one(number, on_answer))

    async def _send_one(self, number: int, on_answer: Callable[[], None]) -> None:
        """Send a request and, after its result, the label."""
        reply = await self.stage.send(build_request(self.endpoint, self._digits.images[number], number))
        if reply is None:
            return
        self.tally.take(reply)
        newest = self.stage.learner.newest(self.endpoint)
        self.weights[number] = () if newest is None else newest.weights
        on_answer()
        if reply.is_ok:
            await self.stage.event_seconds(float(self._delays[number]))
            label = int(self._digits.labels[number])
            was_accepted = await self.stage.by_http.send_feedback(self.endpoint, reply.request_id, truth=label)
            self.accepted += was_accepted  # a separate line: `+= await` would lose counts of other tasks

    def legs(self) -> dict[str, int]:
        """The number of legs of each answered request, by request id: always one."""
        return {answer.request_id: 1 for answer in self.tally.answers}


def shuffled(digits: Digits, count: int, random: np.random.Generator) -> Digits:
    """Return `count` images in random order; no image is repeated before all were used."""
    rounds = -(-count // len(digits.labels))
    rows = np.concatenate([random.permutation(len(digits.labels)) for _ in range(rounds)])[:count]
    return Digits(digits.images[rows], digits.labels[rows])
