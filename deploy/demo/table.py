"""Prints the demonstration's result: a table with one line for each arm, and a summary."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from deploy.demo.rows import RowCheck
from deploy.demo.tally import WAYS, Tally

COLUMNS = ("arm", "requests", "share", "accuracy", *(f"{way}\np50 / p99 ms" for way in WAYS), "mean\nbatch")


def print_table(console: Console, tally: Tally, rows: RowCheck) -> None:
    """Print one line for each arm; latencies are measured by the client and include the wait in the queue."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm in tally.arms():
        table.add_row(*_cells(arm, tally, rows))
    console.print()
    console.print(table)


def print_summary(console: Console, tally: Tally, feedback: int, complaints: list[str]) -> None:
    """Print the numbers of answers and labels, and either the complaints or that there are none."""
    answered = len({answer.number for answer in tally.answers if answer.status == "ok"})
    console.print(f"\nanswered {answered} of {tally.sent}, labels accepted {feedback} of {answered}", highlight=False)
    for complaint in complaints:
        console.print(f"[red]{complaint}[/]", highlight=False)
    if not complaints:
        console.print(
            "[green]every request was answered exactly once, and has exactly one row in the event log[/]",
            soft_wrap=True,
        )


def _cells(arm: str, tally: Tally, rows: RowCheck) -> list[str]:
    count = len(tally.of(arm))
    latencies = [f"{tally.latency_ms(arm, way, 50):.1f} / {tally.latency_ms(arm, way, 99):.1f}" for way in WAYS]
    share = count / len(tally.answers)
    return [arm, str(count), f"{share:.1%}", f"{tally.accuracy(arm):.1%}", *latencies, f"{rows.mean_batch(arm):.1f}"]
