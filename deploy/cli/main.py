"""The command `millrace`. Exit status: 0 success, 1 failure, 2 wrong use or wrong settings."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from broker.errors import MillraceError, Misconfigured
from deploy.cli import dead_letters as dead
from deploy.cli import declare, demo, parts, predict, queues, route, status
from deploy.cli.terminal import errors
from deploy.processes.streams import open_standard_streams

app = typer.Typer(
    name="millrace",
    help="Serves machine-learning models behind message queues.",
    epilog="Start with: millrace init shop && cd shop && millrace up",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (parts, declare, status, predict, route, dead, queues, demo):
    module.add_to(app)


def main() -> None:
    """Run the command line; a MillraceError is printed as one line, without a traceback."""
    open_standard_streams()
    try:
        app()
    except Misconfigured as exc:
        errors.print(f"[red]error:[/] {escape(str(exc))}", highlight=False)
        sys.exit(2)
    except MillraceError as exc:
        errors.print(f"[red]error:[/] {escape(str(exc))}", highlight=False)
        sys.exit(1)
