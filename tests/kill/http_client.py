"""A plain HTTP client: posts numbers, and posts each one again until its answer comes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Self
from uuid import uuid4

import httpx
import orjson

from tests.kill.client import Answer, tensor_of

CALLERS = 8
PAUSE_S = 0.1  # of a caller, between two requests
TRY_S = 8.0  # what the gateway is allowed for one try
HUNG_S = TRY_S + 2.0  # a gateway that is silent for so long says nothing any more
BACKOFF_S = (0.05, 2.0)
DEADLINE_S = 90.0
FIRST = 1_000_000  # no client of the queue sends these numbers
SEND_AGAIN = (410, 429, 503, 504)  # 410: it was accepted, and its time was over before it was computed
LATER = 3  # each so many-th request asks for its answer later


class HttpClient:
    """Callers that each post one number after another, over a connection of their own.

    A connection that breaks, and a refusal that says so, are the client's to mend: it posts the same request again.
    """

    def __init__(self, port: int, endpoint: str, *, callers: int = CALLERS, deadline_s: float = DEADLINE_S) -> None:
        """`deadline_s` is what a request is allowed over all its tries."""
        self.sent: set[int] = set()
        self.answers: dict[int, Answer] = {}
        self.tries: Counter[str] = Counter()
        """How all the tries ended: by status code, or by the name of what broke."""
        self.accepted: set[str] = set()
        """The ids of all requests that were accepted for later."""
        self.withheld: set[str] = set()
        """Those of them that were computed, and whose answers cannot be had."""
        self._base = f"http://127.0.0.1:{port}"
        self._url = f"{self._base}/v2/models/{endpoint}/infer"
        self._name = uuid4().hex[:12]
        self._numbers = itertools.count(FIRST)
        self._wrong: list[Answer] = []
        self._sending = True
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._number_of_callers = callers
        self._deadline_s = deadline_s
        self._callers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        number = self._number_of_callers
        limits = httpx.Limits(max_connections=number, max_keepalive_connections=number)
        self._http = httpx.AsyncClient(timeout=HUNG_S, limits=limits, trust_env=False)
        self._callers = [asyncio.create_task(self._call(), name="http caller") for _ in range(number)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        await self._http.aclose()

    async def pause(self) -> None:
        """Send nothing new, and return when each request has its answer; `go_on` ends it."""
        self._may_send.clear()
        while self.sent - set(self.answers):  # noqa: ASYNC110 - each caller answers by itself
            await asyncio.sleep(PAUSE_S)

    def go_on(self) -> None:
        """Send again."""
        self._may_send.set()

    async def finish(self) -> None:
        """Send nothing new, and return when each request has its answer, or none by its deadline."""
        self._sending = False
        await asyncio.gather(*self._callers)

    @property
    def lost(self) -> int:
        """How many requests have no answer."""
        return len(self.sent - set(self.answers)) + len(self.withheld)

    async def unanswered(self) -> list[str]:
        """Return the ids of requests that were accepted for later, and have no answer to fetch."""
        left, found = iter(sorted(self.accepted)), []

        async def ask() -> None:
            for uid in left:
                said = await self._http.get(f"{self._base}/v2/requests/{uid}")
                if said.status_code != httpx.codes.OK:
                    found.append(uid)

        await asyncio.gather(*[ask() for _ in range(self._number_of_callers)])
        return found

    @property
    def twice(self) -> int:
        """How many answers carry a request id that another request's answer carries, too."""
        return len(self.answers) - len({answer.message_id for answer in self.answers.values()})

    def wrong(self) -> list[Answer]:
        """Return the answers that are not what the model gives for the number, and errors that no fault explains."""
        return self._wrong

    async def _call(self) -> None:
        while self._sending:
            await self._may_send.wait()
            number = next(self._numbers)
            self.sent.add(number)
            await self._until_answered(number)
            await asyncio.sleep(PAUSE_S)

    async def _until_answered(self, number: int) -> None:
        over_s = time.monotonic() + self._deadline_s
        pause_s, longest_s = BACKOFF_S
        while time.monotonic() < over_s:
            answer = await self._ask(number)
            if answer is not None and answer.status == "ok" and answer.value == number:
                self.answers[number] = answer
                return
            if answer is not None:
                self._wrong.append(answer)
            await asyncio.sleep(pause_s)
            pause_s = min(longest_s, 2 * pause_s)

    async def _ask(self, number: int) -> Answer | None:
        """Try once; returns None when the request is to be sent again.

        The one place that knows how a request is asked: it waits on the connection that it posted on, or, if it was
        accepted for later, asks for its answer wherever there is a gateway.
        """
        try:
            response = await self._http.post(self._url, content=self._body(number), headers=self._headers(number))
            while response.status_code == httpx.codes.ACCEPTED:
                self.accepted.add(response.headers["millrace-request-id"])
                location = self._base + response.headers["location"]
                response = await self._http.get(location, headers={"prefer": "wait=2"})
        except httpx.TransportError as exc:
            self.tries[type(exc).__name__] += 1
            return None
        self.tries[str(response.status_code)] += 1
        return None if response.status_code in SEND_AGAIN else self._read(number, response)

    def _headers(self, number: int) -> Mapping[str, str]:
        """Return the headers of a request, the same ones for each of its tries."""
        return ({"prefer": "respond-async"} if number % LATER == 0 else {}) | {
            "content-type": "application/json",
            "millrace-timeout-ms": str(round(1000 * TRY_S)),
            "idempotency-key": self._id(number),
        }

    def _body(self, number: int) -> bytes:
        return orjson.dumps({"id": self._id(number), "inputs": [tensor_of(number)]})

    def _id(self, number: int) -> str:
        return f"{self._name}-{number}"

    def _read(self, number: int, response: httpx.Response) -> Answer:
        """Read an answer; one to another request is no `ok`."""
        status, value = response.headers.get("millrace-status", ""), None
        if response.status_code == httpx.codes.OK:
            said = _object(response.content)
            value = _value(said)
            status = status if said.get("id") == self._id(number) else "of another request"
        uid = response.headers.get("millrace-request-id", "")
        return Answer(number, status, uid, value, f"{response.status_code} {response.text}")


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _value(said: dict[str, Any]) -> float | None:
    """Return the one number of an answer."""
    try:
        [[value]] = [output["data"] for output in said["outputs"]]
        return float(value)
    except (KeyError, TypeError, ValueError):
        return None
