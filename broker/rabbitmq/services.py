"""pika's event loop services, with one change: a failed attempt to connect is always reported."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pika.adapters.asyncio_connection import _AsyncioIOServicesAdapter


class Services(_AsyncioIOServicesAdapter):  # type: ignore[misc]  # pika has no types
    """pika's services for a loop whose exception handler ends the process after an error in a callback."""

    def create_streaming_connection(self, *arguments: Any, on_done: Callable[[Any], None], **options: Any) -> Any:
        """Make a transport; also report to `on_done` that the connection was reset before that.

        pika raises this error in a callback of the loop, where the code that reconnects does not receive it.
        """
        try:
            return super().create_streaming_connection(*arguments, on_done=on_done, **options)
        except (OSError, ValueError) as exc:  # pika raises ValueError for "not connected"
            return self.call_later(0, functools.partial(on_done, exc))
