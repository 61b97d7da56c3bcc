"""Requests for held-out digits to one endpoint, each followed by its true label as feedback."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deploy.demo.digits import Digits
from deploy.demo.scenarios.stage import ScenarioStage
from deploy.demo.tally import Tally
from deploy.demo.wire import ask


class LabelledTraffic:
    """Sends one request a number. Its label follows `delays` event seconds after the answer, if that is a result."""

    def __init__(self, stage: ScenarioStage, endpoint: str, digits: Digits, delays: np.ndarray) -> None:
        self.stage = stage
        self.endpoint = endpoint
        self.tally = Tally(digits.labels)
        self.told = 0
        self.weights: dict[int, tuple[float, ...]] = {}  # by number: the published ones when it was answered
        self._digits = digits
        self._delays = delays

    async def one(self, number: int, on_answer: Callable[[], None]) -> None:
        """Send a request and its label."""
        reply = await self.stage.send(ask(self.endpoint, self._digits.images[number], number))
        if reply is None:
            return
        self.tally.take(reply)
        newest = self.stage.learner.newest(self.endpoint)
        self.weights[number] = () if newest is None else newest.weights
        on_answer()
        if reply.is_ok:
            await self.stage.event_seconds(float(self._delays[number]))
            label = int(self._digits.labels[number])
            was_accepted = await self.stage.by_http.tell(self.endpoint, reply.request_id, truth=label)
            self.told += was_accepted

    def legs(self) -> dict[str, int]:
        """Return the arms that each answered request went to: one."""
        return {answer.request_id: 1 for answer in self.tally.answers}


def shuffled(digits: Digits, count: int, random: np.random.Generator) -> Digits:
    """Return `count` images in an order drawn by `random`, all of them before any comes again."""
    rounds = -(-count // len(digits.labels))
    rows = np.concatenate([random.permutation(len(digits.labels)) for _ in range(rounds)])[:count]
    return Digits(digits.images[rows], digits.labels[rows])
