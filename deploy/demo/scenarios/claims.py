"""The claims of a scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, slots=True)
class ScenarioClaim:
    """A sentence with measured numbers, and whether it is true."""

    text: str
    held: bool


def print_claims(console: Console, claims: Sequence[ScenarioClaim]) -> bool:
    """Print each claim as held or FAILED; returns True if all held."""
    console.print()
    for claim in claims:
        word, style = ("held", "green") if claim.held else ("FAILED", "red")
        console.print(f"[{style}]{word:>6}[/]  ", end="", highlight=False)
        console.print(claim.text, markup=False, highlight=False, soft_wrap=True)
    return all(claim.held for claim in claims)
