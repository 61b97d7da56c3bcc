"""POST /v2/models/<endpoint>/feedback appends feedback on a request to the event log of the endpoint."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from broker.errors import MillraceError, QueueFull, TooLarge, Unavailable, Unreachable
from broker.messages import Outcome, Reason, Settlement
from broker.records.feedback import parse_feedback, write_feedback
from gateway.core.core import Core
from gateway.transport.body import read_body


class FeedbackRoute:
    """Accepts feedback. 202 means that it is on the log; its request may be unknown, or may arrive later."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._declared: set[str] = set()

    async def take(self, request: Request) -> JSONResponse:
        """Answer 202 once the broker has confirmed the record."""
        declared = self._core.router(request.path_params["endpoint"]).endpoint
        endpoint = declared.endpoint
        headers = request.headers
        body = await read_body(
            request.receive,
            announced=headers.get("content-length", "").encode("latin-1"),
            encoding=headers.get("content-encoding", "").encode("latin-1"),
            limit=self._core.settings.feedback_limit_bytes,
        )
        record, attributes = write_feedback(parse_feedback(body, declared.feedback.rewards))
        log = await self._log(endpoint)
        outcome = (await self._core.broker.append(log, [record], attributes))[0]
        if not outcome.safe:
            self._declared.discard(log)
            raise _refusal(endpoint, outcome)
        self._core.metrics.feedback.labels(endpoint).inc()
        return JSONResponse({"accepted": True}, status_code=202)

    async def _log(self, endpoint: str) -> str:
        log = self._core.broker.channels.events(endpoint)
        if log not in self._declared:
            await self._core.broker.declare(log)
            self._declared.add(log)
        return log


def _refusal(endpoint: str, outcome: Outcome) -> MillraceError:
    if outcome.settlement is Settlement.UNKNOWN:
        return Unreachable("the broker's connection was lost: send the feedback again; with an event_id it counts once")
    if outcome.is_full:
        return QueueFull(f"the event log of {endpoint} does not accept records now")
    if outcome.reason is Reason.TOO_LARGE:
        return TooLarge("the feedback is larger than the broker allows")
    return Unavailable(f"the event log of {endpoint} does not exist now: send the feedback again")
