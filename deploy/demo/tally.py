"""What was sent and what came back: the only source of the demonstration's table and of its exit status."""

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
    """One answer, for the digit of this number; `label` is -1 where the answer is no result."""

    number: int
    way: str
    request_id: str
    status: str
    arm: str
    label: int
    latency_s: float

    @property
    def word(self) -> str:
        """The status without what was said beside it."""
        return self.status.partition(" ")[0]


@dataclass(slots=True)
class Tally:
    """All answers, and the digits that they are answers for."""

    labels: Any
    answers: list[TallyAnswer] = field(default_factory=list)

    def take(self, reply: DemoReply) -> None:
        """Note an answer."""
        self.answers.append(
            TallyAnswer(
                number=reply.number,
                way=reply.way,
                request_id=reply.request_id,
                status=reply.said,
                arm=reply.arm,
                label=reply.label,
                latency_s=reply.latency_s,
            )
        )

    def take_all(self, replies: Iterable[DemoReply]) -> None:
        """Note several answers."""
        for reply in replies:
            self.take(reply)

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return len(self.labels)

    def arms(self) -> list[str]:
        """Return the arms that answered, in order."""
        return sorted({answer.arm for answer in self.answers if answer.arm}, reverse=True)

    def of(self, arm: str, way: str | None = None) -> list[TallyAnswer]:
        """Return an arm's results, of one way or of both."""
        return [it for it in self.answers if it.status == OK and it.arm == arm and way in (None, it.way)]

    def accuracy(self, arm: str) -> float:
        """Return the share of an arm's results that are right."""
        answers = self.of(arm)
        return float(np.mean([answer.label == self.labels[answer.number] for answer in answers])) if answers else 0.0

    def latency_ms(self, arm: str, way: str, percent: int) -> float:
        """Return a percentile of the time from sending to answer, in milliseconds."""
        times = [answer.latency_s for answer in self.of(arm, way)]
        return float(np.percentile(times, percent)) * 1000 if times else float("nan")

    def results(self) -> list[TallyAnswer]:
        """Return the answers that are results."""
        return [answer for answer in self.answers if answer.status == OK]

    def ids(self) -> list[str]:
        """Return the request ids of all results."""
        return [answer.request_id for answer in self.results()]

    def complaints(self, allowed: Collection[str] = (OK,)) -> list[str]:
        """Return what is wrong with the answers; nothing if every request was answered exactly once, as is allowed."""
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
