"""Helpers of `test_router.py` that other tests use, too."""

from __future__ import annotations

from broker.protocol.ids import derived_uid
from broker.records.endpoint import read_endpoint
from router.drawing.router import Router
from router.policies.declared import read_policy

KEY = b"secret"
DRAWS = 20_000


def router_of(policy: dict[str, object], key: bytes = KEY, /, **more: object) -> Router:
    arms = {"a": "m@1", "b": "m@2", "c": "m@3"}
    endpoint = read_endpoint({"endpoint": "e", "arms": arms, "policy": policy, **more}, source="test")
    return Router(endpoint, read_policy(endpoint), key)


def identities(number: int = DRAWS) -> list[bytes]:
    return [derived_uid(str(n).encode()) for n in range(number)]
