"""Measure the numbers that the router promises, compare them with known results, and fail if a gate is missed.

All parts take less than 20 minutes on one core. `python -m tests.science canary sticky` measures only some parts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from tests.science import canaries, context, interleavings, learner, regret
from tests.science.gates import Row

PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "regret": regret.instances,
    "items": regret.coming_and_going,
    "staleness": regret.staleness,
    "canary": canaries.events,
    "stages": canaries.stages,
    "rewards": canaries.bounded,
    "sticky": canaries.sticky,
    "ratios": canaries.ratios,
    "context": context.digits,
    "lists": interleavings.lists,
    "votes": interleavings.stopping,
    "sensitivity": interleavings.sensitivity,
    "learner": learner.kills,
}


def main() -> None:
    """Measure the parts, print each row, and exit with status 1 if a gate was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one of {', '.join(PARTS)}; all by default")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    missed = sum(_measured(part) for part in parts)
    sys.stdout.write(f"science: {missed} gates missed\n")
    sys.exit(1 if missed else 0)


def _measured(part: str) -> int:
    """Measure a part and print its rows; returns the number of missed gates."""
    began, missed = time.monotonic(), 0
    sys.stdout.write(f"{part:<58} {'ours':>16}  {'known':<22} gate\n")
    for row in PARTS[part]():
        verdict = "" if not row.gate else "ok" if row.passed else "MISSED"
        missed += not row.passed
        sys.stdout.write(f"  {row.what:<56} {row.ours:>16}  {row.known:<22} {row.gate}  {verdict}".rstrip() + "\n")
        sys.stdout.flush()
    sys.stdout.write(f"  {time.monotonic() - began:.0f} s\n")
    return missed


if __name__ == "__main__":
    main()
