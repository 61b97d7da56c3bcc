"""What the processes of `running.millrace` are copied from: it has imported what every command needs, for no terminal.

Nothing imports this but that process.
"""

from __future__ import annotations

import os

os.environ.update(COLUMNS="200", TERM="dumb")  # noqa: TID251 - consoles look when they are made

import _pytest.config  # noqa: F401 - multiprocessing imports in each copy what the tests' own process ran

import deploy.cli.main  # noqa: F401
