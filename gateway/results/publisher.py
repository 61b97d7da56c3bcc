"""Publishes stored requests: once per process, and until the broker has confirmed them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from broker.errors import QueueFull, Unreachable
from broker.protocol.header import Request
from broker.protocol.ids import now_us
from gateway.core.sending import RequestSender
from gateway.results.store import ResultsStore

CONFIRM_S = 5.0  # the longest wait for a broker's confirm
OTHERS_S = 1.0  # a request that another gateway stored may just be in publication there
OTHERS_CHECK_S = 0.1


class StoredRequestPublisher:
    """Puts stored requests into their queues and notes in the store that they were published.

    A request that the broker refused is withdrawn from the store. One that may have reached the broker stays stored,
    for its answer.
    """

    def __init__(
        self, results: ResultsStore, sending: RequestSender, *, drain_s: Callable[[Request], Awaitable[float]]
    ) -> None:
        """`drain_s` returns the seconds after which a full queue is worth another try."""
        self._results = results
        self._sending = sending
        self._drain_s = drain_s
        self._publishing: dict[bytes, asyncio.Task[None]] = {}

    async def publish(self, request: Request, shadow: Request | None = None) -> None:
        """Publish a request once, however many clients wait for that; a client that disconnects does not stop it.

        Raises Unreachable if the broker did not confirm in time, or the error with which it refused.
        """
        publishing = self._publishing.get(request.uid)
        if publishing is None:
            publishing = self._publishing[request.uid] = asyncio.create_task(self._until_safe(request, shadow))
            publishing.add_done_callback(lambda task: self._published(request.uid, task))
        await asyncio.shield(publishing)

    async def publish_again(self, request: Request) -> None:
        """Publish a request that was stored before, if no gateway publishes it: its gateway may have died."""
        publishing = self._publishing.get(request.uid)
        if publishing is not None:
            await asyncio.shield(publishing)
            return
        until = time.monotonic() + OTHERS_S
        while time.monotonic() < until:
            stored = (await self._results.find([request.uid])).get(request.uid)
            if stored is None or stored.published or stored.status is not None:
                return
            await asyncio.sleep(OTHERS_CHECK_S)
        await self.publish(request)

    def _published(self, uid: bytes, task: asyncio.Task[None]) -> None:
        self._publishing.pop(uid, None)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the shielded waits raise it

    async def _until_safe(self, request: Request, shadow: Request | None) -> None:
        try:
            async with asyncio.timeout(min(CONFIRM_S, (request.deadline_us - now_us()) / 1e6)):
                await self._sending.put_safely(request, shadow)
            await self._results.publish(request.uid)
        except TimeoutError as exc:
            raise Unreachable("the broker did not confirm the request in time; it may still run") from exc
        except Unreachable:
            raise
        except QueueFull as exc:
            await self._results.withdraw(request.uid)
            raise QueueFull(str(exc), retry_after_s=await self._drain_s(request)) from exc
        except Exception:
            await self._results.withdraw(request.uid)
            raise
