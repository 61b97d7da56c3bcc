"""Standard input, output and errors, also where who started us has closed them."""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_standard_streams() -> None:
    """Open those of the descriptors 0 to 2 that are closed, on the null device.

    The next socket or file would get such a number: what is printed would go into it, a child would inherit it, and
    libuv ends the process when it closes it.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        if _is_closed(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
