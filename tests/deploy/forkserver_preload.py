"""Imported once by the fork server of `running.millrace`, so that each command starts with all modules loaded.

No other module imports this one.
"""

from __future__ import annotations

import os

os.environ.update(COLUMNS="200", TERM="dumb")  # noqa: TID251 - consoles read them when they are created

import _pytest.config  # noqa: F401 - multiprocessing imports the main module of the tests in each copy

import deploy.cli.main  # noqa: F401
