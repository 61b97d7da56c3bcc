"""Which requests take part in an endpoint's experiment: not those of the holdout, nor those of other slices."""

from __future__ import annotations

from collections.abc import Callable

from broker.protocol.ids import uniform_for
from broker.records.endpoint import Endpoint


def exclusion(endpoint: Endpoint, key: bytes, salt: bytes) -> Callable[[bytes], bool] | None:
    """Return a function that is True for the units outside the experiment; None if there are never any.

    A unit is a request's key, or its uid if it has none. Slices of one group are drawn alike for all endpoints, so that
    the slices of two endpoints never share a key. No arm's name begins with a zero byte, so these draws are independent
    of those of arms.
    """
    holdout, exclusive = endpoint.holdout, endpoint.exclusive
    if not holdout and exclusive is None:
        return None
    group = b"" if exclusive is None else b"\0exclusive\0" + exclusive.group.encode()
    slice_, held = uniform_for(key, group), uniform_for(key, b"\0holdout\0" + salt)
    low, high = (0.0, 1.0) if exclusive is None else exclusive.slice

    def excluded(unit: bytes) -> bool:
        if group and not low <= slice_(unit) < high:
            return True
        return held(unit) < holdout

    return excluded
