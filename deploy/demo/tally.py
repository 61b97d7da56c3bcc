"""Collects the answers of a demonstration; its table and its exit status are computed from them alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy.demo.wire import OK, DemoReply

WAYS = ("HTTP", "queue")


@dataclass(frozen=True, slots=True, kw_only=True)
class TallyAnswer:
    """The answer for the digit with this number; `label` is -1 if the answer is an error."""

    number: int
    way: str
    request_id: str
    status: str
    arm: str
    label: int
    latency_s: float

    @property
    def word(self) -> str:
        """The status without the error's text."""
        return self.status.partition(" ")[0]


@dataclass(slots=True)
class Tally:
    """All answers, and the true labels of the digits that were sent."""

    labels: Any
    answers: list[TallyAnswer] = field(default_factory=list)

    def take(self, reply: DemoReply) -> None:
        """Add an answer."""
        self.answers.append(
            TallyAnswer(
                number=reply.number,
                way=reply.way,
                request_id=reply.request_id,
                status=reply.outcome,
                arm=reply.arm,
                label=reply.label,
                latency_s=reply.latency_s,
            )
        )

    def take_all(self, replies: Iterable[DemoReply]) -> None:
        """Add several answers."""
        for reply in replies:
            self.take(reply)

    @property
    def sent(self) -> int:
        """The number of requests that were sent."""
        return len(self.labels)

    def arms(self) -> list[str]:
        """The arms that answered, in reverse order of their names."""
        return sorted({answer.arm for answer in self.answers if answer.arm}, reverse=True)

    def of(self, arm: str, way: str | None = None) -> list[TallyAnswer]:
        """The results of an arm, sent one way or both ways."""
        return [it for it in self.answers if it.status == OK and it.arm == arm and way in (None, it.way)]

    def accuracy(self, arm: str) -> float:
        """The share of an arm's results that are right, 0 without results."""
        answers = self.of(arm)
        return float(np.mean([answer.label == self.labels[answer.number] for answer in answers])) if answers else 0.0

    def latency_ms(self, arm: str, way: str, percent: int) -> float:
        """A percentile of the time from sending to answer, in milliseconds; NaN without results."""
        times = [answer.latency_s for answer in self.of(arm, way)]
        return float(np.percentile(times, percent)) * 1000 if times else float("nan")

    def results(self) -> list[TallyAnswer]:
        """The answers that are results."""
        return [answer for answer in self.answers if answer.status == OK]

    def ids(self) -> list[str]:
        """The request ids of all results."""
        return [answer.request_id for answer in self.results()]

    def complaints(self, allowed: Collection[str] = (OK,)) -> list[str]:
        """List the mistakes: requests without exactly one answer, repeated ids, and statuses outside `allowed`."""
        counts = Counter(answer.number for answer in self.answers)
        failed = [f"{it.way} request {it.number}: {it.status}" for it in self.answers if it.word not in allowed]
        missing = [str(number) for number in range(self.sent) if number not in counts]
        twice = [str(number) for number, count in counts.items() if count > 1]
        same_id = [request_id for request_id, count in Counter(self.ids()).items() if count > 1]
        named = (
            ("not answered", missing),
            ("answered twice", twice),
            ("request ids used twice", same_id),
            ("failed", failed),
        )
        return [f"{what}: {len(which)} ({_some(which)})" for what, which in named if which]


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:5]) + (", …" if len(shown) > 5 else "")
