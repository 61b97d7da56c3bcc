"""Prints the result of a kill test in one line: lost requests, repeated answers, redeliveries and rows."""

from __future__ import annotations

from tests.kill.client import Client
from tests.kill.rows import Rows


def report(client: Client, redelivered: int, rows: Rows, more: str = "") -> None:
    """Print the counts of a client's requests and rows; `twice` counts after deduplication by message_id."""
    ids = client.message_ids()
    print(  # noqa: T201 - the result of the test
        f"lost {client.lost} twice {client.twice} redelivered {redelivered} answers repeated {client.repeated}"
        f" rows missing {rows.missing(ids)} distinct {len(rows.first)} repeated {rows.repeated} {more}"
    )
