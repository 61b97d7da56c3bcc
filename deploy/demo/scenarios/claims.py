"""What a scenario claims, and whether it held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, slots=True)
class ScenarioClaim:
    """A sentence with the numbers that it rests on."""

    said: str
    held: bool


def print_claims(console: Console, claims: Sequence[ScenarioClaim]) -> bool:
    """Print each claim with what became of it; tells whether all held."""
    console.print()
    for claim in claims:
        word, style = ("held", "green") if claim.held else ("FAILED", "red")
        console.print(f"[{style}]{word:>6}[/]  ", end="", highlight=False)
        console.print(claim.said, markup=False, highlight=False, soft_wrap=True)
    return all(claim.held for claim in claims)
