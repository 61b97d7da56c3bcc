"""Writes a report as one HTML page with tables and inline SVG curves; it loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape as escaped

from router.evidence.sections import Cell, Curves, Section, Table, as_text

WIDTH, HEIGHT, LEFT, BELOW = 900, 240, 40, 24
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
POINTS_LIMIT = 2000  # points of a curve: more than a screen can show

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 500; color: #666; }
th, td { padding: .15rem .9rem .15rem 0; border-bottom: 1px solid #eee; } td.number { text-align: right;
font-variant-numeric: tabular-nums; } p.note { color: #666; margin: .3rem 0; } .alarm h2, .alarm p { color: #b00020; }
svg { max-width: 100%; height: auto; }"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML; all data is escaped."""
    parts = "\n".join(part for section in sections for part in _section(section))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
{parts}
</body>
</html>
"""


def escape(text: str) -> str:
    """Escape markup, and replace unprintable characters."""
    return escaped("".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text))


def _section(section: Section) -> Iterator[str]:
    alarm = isinstance(section, Table) and section.alarm
    yield '<section class="alarm">' if alarm else "<section>"
    yield f"<h2>{escape(section.title)}</h2>"
    yield from _table(section) if isinstance(section, Table) else _curves(section)
    for note in section.notes:
        yield f'<p class="note">{escape(note)}</p>'
    yield "</section>"


def _table(table: Table) -> Iterator[str]:
    yield "<table>"
    yield "<tr>" + "".join(f"<th>{escape(column)}</th>" for column in table.columns) + "</tr>"
    for row in table.rows:
        yield "<tr>" + "".join(map(_cell, row)) + "</tr>"
    yield "</table>"


def _cell(cell: Cell) -> str:
    kind = ' class="number"' if isinstance(cell, (int, float)) else ""
    return f"<td{kind}>{escape(as_text(cell))}</td>"


def _curves(curves: Curves) -> Iterator[str]:
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT + BELOW}" role="img">'
    yield f"<title>{escape(curves.title)}</title>"
    for share in (0.0, 0.5, 1.0):
        y = _y(share)
        yield f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"></line>'
        yield f'<text x="0" y="{y + 4:.1f}" font-size="12" fill="#666">{100 * share:.0f} %</text>'
    for place, _ in enumerate(curves.names):
        colour = COLOURS[place % len(COLOURS)]
        yield f'<path d="{_path(curves, place)}" fill="none" stroke="{colour}" stroke-width="2"></path>'
    for at_us, anchor, x in ((curves.at_us[0], "start", LEFT), (curves.until_us, "end", WIDTH)):
        when = datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        yield f'<text x="{x}" y="{HEIGHT + 18}" font-size="12" fill="#666" text-anchor="{anchor}">{when}</text>'
    yield "</svg>"
    keys = [
        f'<span style="color: {COLOURS[place % len(COLOURS)]}">&#9632;</span> {escape(name)} '
        for place, name in enumerate(curves.names)
    ]
    yield "<p>" + "".join(keys) + "</p>"


def _path(curves: Curves, name: int) -> str:
    """Return the SVG path of one curve, drawn as steps."""
    begin, span = curves.at_us[0], max(1, curves.until_us - curves.at_us[0])
    every = -(-len(curves.at_us) // POINTS_LIMIT)
    steps = list[str]()
    for at_us, values in list(zip(curves.at_us, curves.values, strict=True))[::every]:
        x = LEFT + (WIDTH - LEFT) * (at_us - begin) / span
        steps.append(f"{'H' if steps else 'M'}{x:.1f}{'V' if steps else ' '}{_y(values[name]):.1f}")
    return " ".join([*steps, f"V{_y(curves.values[-1][name]):.1f}", f"H{WIDTH}"])


def _y(share: float) -> float:
    return 8.0 + (HEIGHT - 16.0) * (1.0 - min(1.0, max(0.0, share)))
