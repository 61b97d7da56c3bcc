"""Draws lines, areas and bands with plain characters, as wide as the terminal and legible without colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
EIGHTHS = " ▁▂▃▄▅▆▇█"
LABEL_WIDTH = 8
MARKED = "┄"
Grid = list[list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotLine:
    """Points in order of x, each drawn as `mark`; with `steps` a value is drawn until the next point."""

    name: str
    mark: str
    points: Sequence[Point]
    steps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotArea:
    """The area under a line; each value is drawn until the next point."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotBand:
    """The area between two lines, from points (x, low, high); values are drawn until the next point."""

    name: str
    mark: str
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The content of a picture: lines on top of areas, later ones on top of earlier ones.

    `percent` labels the y axis in percent, for shares.
    """

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_name: str
    areas: Sequence[PlotArea | PlotBand] = ()
    lines: Sequence[PlotLine] = ()
    height: int = 13
    percent: bool = False
    legend: bool = True
    marked: tuple[float, ...] = ()  # values of y with a horizontal line


def draw(picture: Picture, width: int) -> list[str]:
    """Return the picture's lines, each of at most `width` characters."""
    columns = max(10, width - LABEL_WIDTH - 2)
    grid = [[" "] * columns for _ in range(picture.height)]
    for shape in picture.areas:
        _paint(grid, picture, shape)
    for value in picture.marked:
        grid[_row(picture, value)] = [MARKED] * columns
    for line in picture.lines:
        _paint(grid, picture, line)
    lines = [picture.title[:width]]
    lines += [f"{_label(picture, row)} ┤{''.join(cells)}".rstrip() for row, cells in enumerate(grid)]
    lines += _axis(picture, columns)
    return lines + (_legend(picture, width) if picture.legend else [])


def _paint(grid: Grid, picture: Picture, shape: PlotLine | PlotArea | PlotBand) -> None:
    columns = len(grid[0])
    if isinstance(shape, PlotArea):
        for column, value in _held(picture, shape.points, columns):
            _fill(grid, picture, column, value)
    elif isinstance(shape, PlotBand):
        lows = _held(picture, [(x, low) for x, low, _ in shape.points], columns)
        highs = _held(picture, [(x, high) for x, _, high in shape.points], columns)
        for (column, low), (_, high) in zip(lows, highs, strict=True):
            for row in range(_row(picture, high), _row(picture, low) + 1):
                grid[row][column] = shape.mark
    else:
        placed = _held(picture, shape.points, columns) if shape.steps else _single(picture, shape.points, columns)
        for column, value in placed:
            grid[_row(picture, value)][column] = shape.mark


def _fill(grid: Grid, picture: Picture, column: int, value: float) -> None:
    """Fill a column from below, to an eighth of a row."""
    low, high = picture.y
    eighths = round((value - low) / (high - low) * 8 * len(grid))
    for row in range(len(grid)):
        grid[-1 - row][column] = EIGHTHS[min(8, max(0, eighths - 8 * row))]


def _held(picture: Picture, points: Sequence[Point], columns: int) -> Iterator[tuple[int, float]]:
    """Yield (column, value) from the column of the first point, with the last value before the column's right edge."""
    left, right = picture.x
    at = -1
    for column in range(columns):
        edge = left + (column + 1) / columns * (right - left)
        while at + 1 < len(points) and points[at + 1][0] <= edge:
            at += 1
        if at >= 0:
            yield column, points[at][1]


def _single(picture: Picture, points: Sequence[Point], columns: int) -> Iterator[tuple[int, float]]:
    left, right = picture.x
    for x, value in points:
        yield min(columns - 1, max(0, int((x - left) / (right - left) * columns))), value


def _row(picture: Picture, value: float) -> int:
    low, high = picture.y
    from_below = round((value - low) / (high - low) * (picture.height - 1))
    return picture.height - 1 - min(picture.height - 1, max(0, from_below))


def _label(picture: Picture, row: int) -> str:
    """The number beside a row: the first, the last and the marked rows have one, or the middle row without marks."""
    low, high = picture.y
    at = {_row(picture, value): value for value in picture.marked or ((low + high) / 2,)}
    at |= {0: high, picture.height - 1: low}
    if row not in at:
        return " " * LABEL_WIDTH
    value = at[row]
    return f"{value:.0%}".rjust(LABEL_WIDTH) if picture.percent else f"{value:.2f}".rjust(LABEL_WIDTH)


def _axis(picture: Picture, columns: int) -> list[str]:
    left, right = (f"{value:,.0f}" for value in picture.x)
    space = max(1, columns - len(left) - len(right))
    named = f" {picture.x_name} ".center(space) if len(picture.x_name) + 2 <= space else " " * space
    indent = " " * (LABEL_WIDTH + 1)
    return [f"{indent}└{'─' * columns}", f"{indent} {left}{named}{right}"]


def _legend(picture: Picture, width: int) -> list[str]:
    """The lines of the legend, with as many marks on a line as fit."""
    lines = [""]
    for shape in (*picture.areas, *picture.lines):
        mark = EIGHTHS[-1] if isinstance(shape, PlotArea) else shape.mark
        entry = f"{mark} {shape.name}"
        if lines[-1] and len(lines[-1]) + 3 + len(entry) > width - LABEL_WIDTH - 2:
            lines.append("")
        lines[-1] += f"   {entry}" if lines[-1] else entry
    return [f"{' ' * (LABEL_WIDTH + 2)}{line}"[:width] for line in lines]
