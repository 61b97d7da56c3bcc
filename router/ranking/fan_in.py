"""Collects the answers of several arms to one request, by its uid."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from broker.errors import Expired, MillraceError
from broker.protocol.header import Answer, Status

SWEEP_S = 0.05

AnswersByArm: TypeAlias = Mapping[str, Answer | MillraceError]
"""For each arm that got the request: its answer, or the error in place of one."""


@dataclass(slots=True)
class _Waiting:
    arms: Collection[str]
    wait_until_s: float
    until_s: float
    allowed_s: float
    futures: list[asyncio.Future[AnswersByArm]]
    answers: dict[str, Answer | MillraceError] = field(default_factory=dict)
    has_result: bool = False

    def is_over(self, now_s: float) -> bool:
        if len(self.answers) == len(self.arms) or now_s >= self.until_s:
            return True
        return self.has_result and now_s >= self.wait_until_s


class FanIn:
    """Waits for the answers of several arms, by uid; the first answer of an arm counts.

    A wait ends when every arm has answered; when `wait_s` are over and one answer is a result, however late it came; or
    after `allowed_s`. The caller limits the number of waits and must call `sweep` every `SWEEP_S`: waits have no timers
    of their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[bytes, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, uid: object) -> bool:
        return uid in self._waiting

    def expect(
        self, uid: bytes, arms: Collection[str], *, wait_s: float, allowed_s: float
    ) -> asyncio.Future[AnswersByArm]:
        """Return the future of the answers of `arms`. A second call for an open uid shares the first wait."""
        future: asyncio.Future[AnswersByArm] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(uid)
        if waiting is not None:
            waiting.futures.append(future)
            return future
        now_s = self._clock()
        wait_until_s, until_s = now_s + min(wait_s, allowed_s), now_s + allowed_s
        self._waiting[uid] = _Waiting(arms, wait_until_s, until_s, allowed_s, [future])
        return future

    def take(self, answer: Answer) -> bool:
        """Add an answer; return False if no wait is open for it."""
        return self._add(answer.uid, answer.arm, answer, is_result=answer.status is Status.OK)

    def refuse(self, uid: bytes, arm: str, error: MillraceError) -> bool:
        """Add an error in place of an answer; return False if no wait is open for it."""
        return self._add(uid, arm, error, is_result=False)

    def waits_for(self, uid: bytes, arm: str) -> bool:
        """Return True while the answer of an arm is missing."""
        waiting = self._waiting.get(uid)
        return waiting is not None and arm in waiting.arms and arm not in waiting.answers

    def fail(self, uid: bytes, error: MillraceError) -> None:
        """End a wait with an error."""
        waiting = self._waiting.pop(uid, None)
        for future in waiting.futures if waiting is not None else ():
            if not future.done():
                future.set_exception(error)

    def fail_all(self, error: MillraceError) -> None:
        """End every wait with an error."""
        for uid in list(self._waiting):
            self.fail(uid, error)

    def forget(self, uid: bytes) -> None:
        """Drop a wait: its caller is gone."""
        self._waiting.pop(uid, None)

    def sweep(self) -> None:
        """End the waits whose time is over."""
        now_s = self._clock()
        for uid in [uid for uid, waiting in self._waiting.items() if waiting.is_over(now_s)]:
            self._finish(uid)

    def _add(self, uid: bytes, arm: str, answer: Answer | MillraceError, *, is_result: bool) -> bool:
        if not self.waits_for(uid, arm):
            return False
        waiting = self._waiting[uid]
        waiting.answers[arm] = answer
        waiting.has_result |= is_result
        if waiting.is_over(self._clock()):
            self._finish(uid)
        return True

    def _finish(self, uid: bytes) -> None:
        waiting = self._waiting.pop(uid)
        for arm in waiting.arms:
            if arm not in waiting.answers:
                allowed_ms = waiting.allowed_s * 1000
                waiting.answers[arm] = Expired(
                    f"no answer of {arm} within the {allowed_ms:.0f} ms allowed; it may still run"
                )
        for future in waiting.futures:
            if not future.done():
                future.set_result(waiting.answers)
