"""`python -m tests.deploy.orphan KIND`: a parent that starts a child, which hangs in the way KIND once it is an orphan.

`python -m tests.deploy.orphan child KIND PID` is the child; PID is its parent.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

from deploy.processes.shell import Context, run_part

GRACE_S = 0.3
HANGS_S = 60.0  # long, but not for ever if a test fails


def _hang() -> None:
    threading.Event().wait(HANGS_S)


async def _main(kind: str, context: Context) -> None:
    sys.stdout.write("started\n")
    sys.stdout.flush()
    if kind == "sleeping-loop":
        time.sleep(HANGS_S)  # noqa: ASYNC251 - blocks the loop on purpose
    elif kind == "busy-loop":
        end_s = time.monotonic() + HANGS_S
        while time.monotonic() < end_s:
            pass
    elif kind == "executor":
        loop = asyncio.get_running_loop()
        hanging = loop.run_in_executor(None, _hang)
        await context.stop.wait()
        assert not hanging.done()
    else:
        await context.stop.wait()
    sys.stdout.write("stopped\n")
    sys.stdout.flush()


def main(words: list[str]) -> int:
    """Run as the parent or as the child."""
    if words[0] != "child":
        return subprocess.call([sys.executable, "-m", "tests.deploy.orphan", "child", words[0], str(os.getpid())])

    async def work(context: Context) -> None:
        await _main(words[1], context)

    return run_part("orphan", work, parent=int(words[2]), grace_s=GRACE_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
