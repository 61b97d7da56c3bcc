"""Opens the standard streams if the parent process has closed them."""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_standard_streams() -> None:
    """Open the null device on each of the descriptors 0 to 2 that is closed.

    Otherwise the next socket or file would get that number: printed text would go into it, child processes would
    inherit it, and libuv ends the process when it closes such a descriptor.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        if _is_closed(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, which is `number`
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - open until the process ends


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
