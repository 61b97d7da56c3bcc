"""Prints sections of a report on a terminal: tables, and bars and curves of plain characters."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from deploy.cli.dead_letter_view import printable
from router.evidence.sections import Curves, Section, Table, as_text, sampled

BLOCKS = " ▏▎▍▌▋▊▉█"
HEIGHTS = "▁▂▃▄▅▆▇█"
LEAST_POINTS, MOST_POINTS = 10, 160


def bar(share: float, width: int = 20) -> str:
    """Draw a share from 0 to 1 as a bar of at most `width` characters, to an eighth of a character."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    return BLOCKS[8] * (eighths // 8) + (BLOCKS[eighths % 8] if eighths % 8 else "")


def curve(values: Sequence[float]) -> str:
    """Draw values from 0 to 1 as a line of characters of different heights."""
    return "".join(HEIGHTS[min(7, int(max(0.0, value) * 8))] for value in values)


def print_sections(sections: Sequence[Section], console: Console) -> None:
    """Print sections one below the other, with unprintable characters replaced."""
    for section in sections:
        console.print()
        console.print(Text(printable(section.title), style="bold red" if _alarms(section) else "bold"))
        if isinstance(section, Curves):
            _print_curves(section, console)
        else:
            console.print(_grid(section))
        for note in section.notes:
            console.print(Text(printable(note), style="dim"), soft_wrap=True)


def _alarms(section: Section) -> bool:
    return isinstance(section, Table) and section.alarm


def _grid(table: Table) -> Grid:
    grid = Grid(box=None, header_style="dim", pad_edge=False)
    for column in table.columns:
        grid.add_column(escape(column))
    for row in table.rows:
        grid.add_row(*[escape(printable(as_text(cell))) for cell in row])
    return grid


def _print_curves(curves: Curves, console: Console) -> None:
    names = [printable(name) for name in curves.names]
    width = max(map(len, names))
    points = min(MOST_POINTS, max(LEAST_POINTS, console.width - width - 10))
    for place, name in enumerate(names):
        line = f"{name:<{width}}  {curve(sampled(curves, place, points))} {curves.values[-1][place]:.3f}"
        console.print(Text(line), soft_wrap=True)
