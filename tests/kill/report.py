"""The one line that each kill test prints: what was lost, what came twice, what was delivered again."""

from __future__ import annotations

from tests.kill.client import Client
from tests.kill.rows import Rows


def report(client: Client, redelivered: int, rows: Rows, more: str = "") -> None:
    """Print what became of a client's requests; `twice` is after dedupe by message_id."""
    ids = client.message_ids()
    print(  # noqa: T201 - this line is what the tests are for
        f"lost {client.lost} twice {client.twice} redelivered {redelivered} answers repeated {client.repeated}"
        f" rows missing {rows.missing(ids)} distinct {len(rows.first)} repeated {rows.repeated} {more}"
    )
