"""Users who click in lists: the sessions that interleaving needs, compared with an A/B test of two rankings.

Every session has its own query, items and user, so that sessions are independent. The items that a user likes do not
depend on the list: the same session can be tried with every list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.interleaving.interleave import interleave
from router.interleaving.preference import Preference
from router.stats.arrays import Bools, Floats, Ints

Z_80 = 1.959963984540054 + 0.8416212335729143  # 5 % on two sides, 80 % power


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickWorld:
    """Two rankers that know each item's quality with normal noise of different size, and users of different taste.

    An item's quality q is uniform. It is liked with probability q**2 times an ease of the user and one of the query,
    each drawn from Beta(taste, taste); with a `taste` of 0 both are 1.
    """

    noise: tuple[float, float]
    items: int = 20
    length: int = 10
    taste: float = 0.5


@dataclass(frozen=True, slots=True)
class ClickSessions:
    """Rankings (rankers, sessions, items), best first, and which items the user likes (sessions, items)."""

    rankings: Ints
    liked: Bools


def sessions(world: ClickWorld, number: int, random: np.random.Generator) -> ClickSessions:
    """Return sessions drawn from a world."""
    shape = (number, world.items)
    quality = random.random(shape)
    seen = [quality + noise * random.normal(size=shape) for noise in world.noise]
    rankings = np.stack([np.argsort(-each, axis=-1) for each in seen])
    easy = random.beta(world.taste, world.taste, (2, number)).prod(axis=0) if world.taste else np.ones(number)
    return ClickSessions(rankings, random.random(shape) < easy[:, None] * quality**2)


def cascade(liked: Bools, random: np.random.Generator, *, stays: float = 0.9) -> Bools:
    """Return clicks (sessions, positions): a user clicks the first liked item and leaves (Craswell et al. 2008).

    Before each further position a user without a click leaves, too, with probability 1 - `stays`.
    """
    patience = random.geometric(1.0 - stays, size=(len(liked), 1))
    seen = liked & (np.arange(liked.shape[1]) < patience)
    clicks: Bools = seen & (np.cumsum(seen, axis=-1) == 1)
    return clicks


def by_position(liked: Bools, random: np.random.Generator, *, fall: float = 1.0) -> Bools:
    """Return clicks (sessions, positions): position i is seen with probability i**-fall, independent of clicks."""
    looked = np.arange(1.0, liked.shape[1] + 1.0) ** -fall
    clicks: Bools = liked & (random.random(liked.shape) < looked)
    return clicks


def shown(drawn: ClickSessions, world: ClickWorld, method: str, random: np.random.Generator) -> tuple[Ints, Floats]:
    """Return merged lists (sessions, positions) and credit differences, first ranker less second."""
    number = drawn.rankings.shape[1]
    items = np.zeros((number, world.length), np.int64)
    difference = np.zeros((number, world.length))
    names = [str(item) for item in range(world.items)]
    for session, (first, second) in enumerate(zip(*drawn.rankings.tolist(), strict=True)):
        rankings = [[names[item] for item in ranking] for ranking in (first, second)]
        placed = interleave(rankings, method, world.length, draw=random.random)
        items[session] = [int(item) for item in placed.items]
        difference[session] = [one - other for one, other in placed.credits]
    return items, difference


@dataclass(frozen=True, slots=True)
class SessionsNeeded:
    """Sessions for 80 % power at 5 %, two-sided: by halves (A/B) and interleaved; and the lift in clicks."""

    halves: float
    interleaved: float
    lift: float


def needed(control: Floats, better: Floats, votes: Floats) -> SessionsNeeded:
    """Return the number of sessions that prove a difference, from clicks with either ranking and from votes.

    A normal test of the difference of two halves' means, and one of the mean vote: (z sd / mean)**2.
    """
    effect = float((better - control).mean())
    halves = 2.0 * (control.var() + better.var()) * (Z_80 / effect) ** 2
    interleaved = votes.var() * (Z_80 / votes.mean()) ** 2
    return SessionsNeeded(float(halves), float(interleaved), effect / float(control.mean()))


def lists_until_proven(
    world: ClickWorld, method: str, alpha: float, runs: int, lists: int, seed: int, *, pool: int = 4000
) -> Ints:
    """Return the number of lists (runs,) until a ranker was proven better, maybe the wrong one; -1 if none was.

    Users click as in `cascade`, and each list has another user. Lists are drawn from a `pool` of merged ones; the test
    is made after each.
    """
    random = np.random.default_rng(seed)
    drawn = sessions(world, pool, random)
    items, difference = shown(drawn, world, method, random)
    clicks = cascade(np.take_along_axis(drawn.liked, items, axis=1), random)
    clicked: Bools = clicks.sum(axis=1) > 0
    vote = (clicks * difference).sum(axis=1)
    test, rows = Preference(2), np.arange(runs)
    state, proven = test.start(runs), np.full(runs, -1)
    for number in range(1, lists + 1):
        one = random.integers(pool, size=runs)
        kept = clicked[one] & (proven < 0)
        votes = np.stack([np.maximum(vote[one], 0.0), np.maximum(-vote[one], 0.0)], axis=-1)
        state = test.fold(state, rows[kept], votes[kept])
        proven = np.where((proven < 0) & (test.preferred(state, alpha)[:, 0] != 0), number, proven)
        if (proven > 0).all():
            break
    return proven
