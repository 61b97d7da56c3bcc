"""What pika asks of the event loop: as pika has it, but that a failed attempt to connect is always told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pika.adapters.asyncio_connection import _AsyncioIOServicesAdapter


class Services(_AsyncioIOServicesAdapter):  # type: ignore[misc]  # pika carries no types
    """pika's services, on a loop that takes its process down for an error in a callback."""

    def create_streaming_connection(self, *arguments: Any, on_done: Callable[[Any], None], **options: Any) -> Any:
        """Make a transport; a connection that was reset since it was made is told to `on_done`, too.

        pika raises it in a callback of the loop's, where nobody hears it who would try again.
        """
        try:
            return super().create_streaming_connection(*arguments, on_done=on_done, **options)
        except (OSError, ValueError) as exc:  # the latter is what pika makes of "not connected"
            return self.call_later(0, functools.partial(on_done, exc))
