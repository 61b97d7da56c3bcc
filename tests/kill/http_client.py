"""An HTTP client that posts numbers, and repeats each request until it is answered."""

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
TRY_S = 8.0  # the timeout that the gateway gets for one try
HUNG_S = TRY_S + 2.0  # after this time without a response the connection is given up
BACKOFF_S = (0.05, 2.0)
DEADLINE_S = 90.0
FIRST = 1_000_000  # larger than all numbers of queue clients
SEND_AGAIN = (410, 429, 503, 504)  # 410: a stored request that expired before it was computed
LATER = 3  # every third request is a stored request (`Prefer: respond-async`)


class HttpClient:
    """Several callers; each posts one number after another, over its own connection.

    After a broken connection or a status in SEND_AGAIN a caller posts the same request again.
    """

    def __init__(self, port: int, endpoint: str, *, callers: int = CALLERS, deadline_s: float = DEADLINE_S) -> None:
        """`deadline_s` is the time limit of a request over all its tries."""
        self.sent: set[int] = set()
        self.answers: dict[int, Answer] = {}
        self.tries: Counter[str] = Counter()
        """The number of tries by status code, or by the name of the error."""
        self.accepted: set[str] = set()
        """The ids of all stored requests."""
        self.withheld: set[str] = set()
        """The ids of stored requests that were computed, but whose answers cannot be fetched."""
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
        """Send no new requests until `go_on`; return when each request has its answer."""
        self._may_send.clear()
        while self.sent - set(self.answers):  # noqa: ASYNC110 - each caller adds its answer
            await asyncio.sleep(PAUSE_S)

    def go_on(self) -> None:
        """Send new requests again."""
        self._may_send.set()

    async def finish(self) -> None:
        """Send no new requests; return when each request has its answer or has passed its deadline."""
        self._sending = False
        await asyncio.gather(*self._callers)

    @property
    def lost(self) -> int:
        """The number of requests without an answer, or with one that cannot be fetched."""
        return len(self.sent - set(self.answers)) + len(self.withheld)

    async def unanswered(self) -> list[str]:
        """The ids of stored requests whose answer cannot be fetched."""
        left, found = iter(sorted(self.accepted)), []

        async def ask() -> None:
            for uid in left:
                response = await self._http.get(f"{self._base}/v2/requests/{uid}")
                if response.status_code != httpx.codes.OK:
                    found.append(uid)

        await asyncio.gather(*[ask() for _ in range(self._number_of_callers)])
        return found

    @property
    def twice(self) -> int:
        """The number of answers with the request id of another request's answer."""
        return len(self.answers) - len({answer.message_id for answer in self.answers.values()})

    def wrong(self) -> list[Answer]:
        """The answers with a wrong value, and errors that no fault explains."""
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
        """Try once; returns None if the request must be sent again.

        The answer comes in the response, or, for a stored request, from any gateway that runs.
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
        """The headers of a request, the same for all of its tries."""
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
        """Read an answer; the answer to another request gets the status "of another request"."""
        status, value = response.headers.get("millrace-status", ""), None
        if response.status_code == httpx.codes.OK:
            document = _object(response.content)
            value = _value(document)
            status = status if document.get("id") == self._id(number) else "of another request"
        uid = response.headers.get("millrace-request-id", "")
        return Answer(number, status, uid, value, f"{response.status_code} {response.text}")


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _value(document: dict[str, Any]) -> float | None:
    """The only number of an answer, None if there is not exactly one."""
    try:
        [[value]] = [output["data"] for output in document["outputs"]]
        return float(value)
    except (KeyError, TypeError, ValueError):
        return None
