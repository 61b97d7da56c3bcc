"""Interleaving: unbiased lists, how often equal rankers are called different, and how many users it saves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple

import numpy as np

from router.interleaving.interleave import interleave
from router.interleaving.placed import credit
from router.interleaving.preference import Preference, Votes
from router.simulation.clicks import (
    ClickSessions,
    ClickWorld,
    SessionsNeeded,
    by_position,
    cascade,
    needed,
    sessions,
    shown,
)
from router.stats.arrays import Bools, Floats, Ints
from tests.science.gates import Row, median, rate

ALPHA = 0.05
FIRST, SECOND = list("abcd"), list("bcda")


def lists() -> Iterator[Row]:
    """The owner of each position, the credit of random clicks, and the credit if an item is one rank higher."""
    number, draw = 200_000, np.random.default_rng(1).random
    owners = Counter(
        tuple(part[0] for part in interleave([FIRST, SECOND], "team_draft", 4, draw=draw).credits)
        for _ in range(number)
    )
    for position in range(4):
        share = sum(times for whose, times in owners.items() if whose[position]) / number
        gate = "in [.495, .505]"
        yield Row(f"team draft: position {position + 1} is the first's", f"{share:.4f}", ".5", gate, _in(share, 0.005))
    for method, known, limit in (
        ("team_draft", ".49", 0.02),
        ("probabilistic", ".385", 0.02),
        ("optimized", "0", 0.001),
    ):
        yield _one_rank_higher(method, known, limit)
    for method in ("team_draft", "probabilistic", "optimized"):
        yield _random_clicks(method, "0", gated=True)
    yield _random_clicks("balanced", "-.5: .744 win", gated=False)


def _in(share: float, tolerance: float, middle: float = 0.5) -> bool:
    return abs(share - middle) <= tolerance


def _one_rank_higher(method: str, known: str, limit: float) -> Row:
    """The first ranker's wins or credit for clicks on an item that is its third and the other ranker's second."""
    draw, number = np.random.default_rng(2).random, 20_000
    earned = [credit(interleave([FIRST, SECOND], method, 4, draw=draw), "c") for _ in range(number)]
    parts = [first if method == "probabilistic" else float(first > second) for first, second in earned]
    share, middle = float(np.mean(parts)), float(known)
    return Row(
        f"{method}: the first's part of its third, their second",
        f"{share:.3f}",
        known,
        f"within {limit:g}",
        _in(share, limit, middle),
    )


def _random_clicks(method: str, known: str, *, gated: bool) -> Row:
    """Require a mean credit difference of random clicks within 4 standard errors of 0."""
    random, number = np.random.default_rng(3), 20_000
    differences = np.zeros(number)
    for place, clicked in enumerate(random.integers(4, size=number)):
        first, second = interleave([FIRST, SECOND], method, 4, draw=random.random).credits[clicked]
        differences[place] = first - second
    mean, error = float(differences.mean()), float(differences.std() / math.sqrt(number))
    ours = f"{mean:.4f} +- {error:.2g}"
    return Row(
        f"{method}: credit of random clicks",
        ours,
        known,
        "0 +- 4 se" if gated else "",
        not gated or abs(mean) <= 4 * error,
    )


def stopping() -> Iterator[Row]:
    """Votes on lists of two equally noisy rankers: 4,000 runs of 10,000 votes, tested after every 50."""
    votes = _votes(ClickWorld(noise=(0.2, 0.2)), 60_000, 4)
    votes = np.concatenate([votes, -votes])  # symmetric, so that the means are exactly equal
    called, _ = _stops(votes, 4000, 10_000, 5)
    yield rate("equal rankers called different at any of 200 looks", called.astype(np.float64), ALPHA, "")
    pool = _votes(ClickWorld(noise=(0.1, 0.4)), 60_000, 6)
    called, looked = _stops(pool, 500, 10_000, 7)
    yield rate("noise .1 beside .4: called different within 10 000", called.astype(np.float64), None, "")
    yield median("noise .1 beside .4: votes until called", looked[called].astype(np.float64), None, _fixed(pool))


def _fixed(votes: Floats) -> str:
    """The number of votes for 80 % power with a single test at a number fixed in advance, as text."""
    return f"{(2.8016 * votes.std() / votes.mean()) ** 2:.0f}, one look"


def _votes(world: ClickWorld, number: int, seed: int) -> Floats:
    """The vote of every session: the credit difference of its only click, 0 without a click."""
    random = np.random.default_rng(seed)
    drawn = sessions(world, number, random)
    items, difference = shown(drawn, world, "team_draft", random)
    votes: Floats = (cascade(_liked(drawn, items), random) * difference).sum(axis=1)
    return votes


def _stops(pool: Floats, runs: int, most: int, seed: int) -> tuple[Bools, Ints]:
    """Draw votes from the pool; returns which runs were called different, and after how many votes."""
    random, test, look = np.random.default_rng(seed), Preference(2), 50
    state, run = test.start(runs), np.repeat(np.arange(runs), look)
    ended = np.full(runs, -1)
    for votes in range(look, most + 1, look):
        drawn = random.choice(pool, runs * look)
        new = test.fold(test.start(runs), run, np.stack([drawn.clip(min=0.0), (-drawn).clip(min=0.0)], axis=-1))
        state = Votes(*(old + more for old, more in zip(astuple(state), astuple(new), strict=True)))
        ended[(ended < 0) & (test.preferred(state, ALPHA)[:, 0] != 0)] = votes
    return ended > 0, ended


def sensitivity() -> Iterator[Row]:
    """The sessions for 80 % power, compared with an A/B test: for users who leave after a click, and who do not.

    Only the first kind has a gate, with users and queries of very different difficulty. A gain of 100 is not promised.
    """
    random, power = np.random.default_rng(8), "80 % power"
    for noise, known in (((0.15, 0.2), "lift 1.3%: 150137, 8730"), ((0.1, 0.2), ""), ((0.2, 0.3), "")):
        world = ClickWorld(noise=noise)
        drawn = sessions(world, 300_000, random)
        items, difference = shown(drawn, world, "team_draft", random)
        for name in ("cascade", "by position"):
            found, votes = _compared(drawn, world, items, difference, name)
            ours, gate = found.halves / found.interleaved, ">= 5" if name == "cascade" else ""
            what = f"{name}, noise {noise[0]:g} / {noise[1]:g}, lift {found.lift:.1%}: gain"
            yield Row(what, f"{ours:.1f}", "5-17" if gate else "2-5", gate, not gate or ours >= 5.0)
            sizes = f"A/B {found.halves:.0f}, {found.interleaved:.0f}"
            yield Row("  sessions for " + power, sizes, known if gate else "")
            if gate:
                yield _power(votes, round(found.interleaved), random)


def _compared(
    drawn: ClickSessions, world: ClickWorld, items: Ints, difference: Floats, name: str
) -> tuple[SessionsNeeded, Floats]:
    """The sessions that are needed, and the votes; the same users see all three lists."""
    clicks = [_clicks(name, _liked(drawn, order)) for order in (*drawn.rankings[:, :, : world.length], items)]
    better, control = (each.sum(axis=1).astype(np.float64) for each in clicks[:2])
    votes = (clicks[2] * difference).sum(axis=1) / np.maximum(clicks[2].sum(axis=1), 1)
    return needed(control, better, votes), votes


def _clicks(name: str, liked: Bools) -> Bools:
    random = np.random.default_rng(9)
    return cascade(liked, random) if name == "cascade" else by_position(liked, random)


def _liked(drawn: ClickSessions, order: Ints) -> Bools:
    liked: Bools = np.take_along_axis(drawn.liked, order, axis=1)
    return liked


def _power(votes: Floats, number: int, random: np.random.Generator) -> Row:
    """Check with 1,000 experiments of `number` drawn votes that the normal test finds the difference in 80 %."""
    samples = np.stack([random.choice(votes, number) for _ in range(1000)])
    z = samples.mean(axis=1) / samples.std(axis=1) * math.sqrt(number)
    share = float((z > 1.959963984540054).mean())
    return Row(
        "  share of 1000 experiments of that size that find it",
        f"{share:.3f}",
        ".8",
        "within .05",
        _in(share, 0.05, 0.8),
    )
