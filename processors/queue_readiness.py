"""Announces whether a replica can take from its queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from broker.base import Consumer
from broker.delivery.heartbeat import Heartbeat
from broker.protocol.answers import clean

NOT_READY_CHECK_S = 0.05
CHECK_S = 0.5
LOST_AFTER_S = 5.0  # a shorter loss of the queue is not announced: most queues are back by then
NEVER_CAME_AFTER_S = 30.0  # a consumer group of Kafka may wait that long for its members

_State: TypeAlias = Literal["", "ready", "loading", "failed"]


class QueueReadiness:
    """Watches the consumers of one replica and announces `ready`, or why the queue cannot be taken from.

    A replica that was ready once is never announced as `failed` because of its queue: its requests wait until the queue
    is back.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        description: Mapping[str, Any],
        *,
        not_ready_check_s: float = NOT_READY_CHECK_S,
        check_s: float = CHECK_S,
        lost_after_s: float = LOST_AFTER_S,
        never_came_after_s: float = NEVER_CAME_AFTER_S,
    ) -> None:
        """`description` is the description of the model, for gateways and routers."""
        self._heartbeat = heartbeat
        self._description = dict(description)
        self._not_ready_check_s = not_ready_check_s
        self._check_s = check_s
        self._lost_after_s = lost_after_s
        self._never_came_after_s = never_came_after_s
        self._announced: _State = ""
        self._was_ready = False
        self._queue_trouble = ""

    @property
    def trouble(self) -> str:
        """Why a replica that was ready cannot take from its queue now; empty if it can."""
        return self._queue_trouble if self._was_ready else ""

    async def watch(self, consumer: Consumer) -> None:
        """Announce every change until cancelled. A replica's consumers are watched one after the other."""
        untroubled_s = time.monotonic()
        try:
            while True:
                self._queue_trouble = consumer.trouble
                if not self._queue_trouble:
                    untroubled_s = time.monotonic()
                    await self._announce_ready()
                elif self._announced in ("", "ready"):
                    await self._announce_trouble(time.monotonic() - untroubled_s)
                await asyncio.sleep(self._check_s if self._announced else self._not_ready_check_s)
        finally:
            self._queue_trouble = ""

    async def _announce_ready(self) -> None:
        if self._announced != "ready":
            await self._heartbeat.set_state("ready", full=self._description)
            self._announced, self._was_ready = "ready", True

    async def _announce_trouble(self, troubled_s: float) -> None:
        """Announce a trouble that has lasted long enough."""
        if troubled_s <= (self._lost_after_s if self._was_ready else self._never_came_after_s):
            return
        if self._was_ready:
            await self._heartbeat.set_state("loading", full=self._description)
            self._announced = "loading"
        else:
            await self._heartbeat.set_state("failed", error=clean(self._queue_trouble))
            self._announced = "failed"
