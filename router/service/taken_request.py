"""A queue client's message on its way through the router."""

from __future__ import annotations

from typing import NamedTuple

from broker.messages import Delivery
from broker.protocol.header import Request


class TakenRequest(NamedTuple):
    """A client's message, the request that it became, and its ticket, written while it can still be refused."""

    delivery: Delivery
    request: Request
    ticket: bytes
    shadow: Request | None
