"""The experiment of interleaved rankers: clicks become credit, each key votes once, and a proven winner ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router.interleaving.placed import credits_of
from router.interleaving.preference import Ballot, Preference, Votes
from router.learning.experiment import ClosedReward, Experiment, Once
from router.learning.joins import Join
from router.policies.interleaving import Interleaving
from router.policies.snapshot import WeightSnapshot
from router.stats.arrays import Floats, Ints

RUNNING = -1
FIRST = 0


@dataclass(frozen=True, slots=True)
class InterleavingState:
    """The votes, the ticks so far, the ranker that answers alone (RUNNING: none yet), and 1 if that is proven."""

    votes: Votes
    ticks: Ints
    alone: Ints
    proven: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class InterleavingExperiment(Experiment[InterleavingState]):
    """A key votes with the first of its lists that got a click; a list without one has no preference.

    When a ranker is proven better than all others at `alpha`, or after `max_ticks`, one of them answers alone: the
    winner, or the first.
    """

    declared: Interleaving

    @property
    def policy(self) -> str:
        return self.declared.name

    @property
    def rewards(self) -> tuple[str, ...]:
        return (self.declared.reward,)

    @property
    def rankers(self) -> tuple[int, ...]:
        return self.declared.rankers

    @property
    def preference(self) -> Preference:
        """The test that is made after every vote."""
        return Preference(len(self.declared.rankers))

    def start(self) -> InterleavingState:
        none = np.full(1, RUNNING)
        return InterleavingState(self.preference.start(1), np.zeros(1, np.int64), none, np.zeros(1, np.int64))

    def rewarded(
        self, state: InterleavingState, name: str, closed: Sequence[ClosedReward], once: Once
    ) -> InterleavingState:
        if state.alone[0] != RUNNING:
            return state
        votes = [vote for one in closed if (vote := self._vote(one.join)) is not None and once(name, one.join.key)]
        if not votes:
            return state
        run = np.zeros(len(votes), np.int64)
        return replace(state, votes=self.preference.fold(state.votes, run, np.array(votes, np.float64)))

    def tick(self, state: InterleavingState) -> InterleavingState:
        if state.alone[0] != RUNNING:
            return state
        state = replace(state, ticks=state.ticks + 1)
        winner = self._winner(state.votes)
        if winner is not None:
            return replace(state, alone=np.full(1, winner), proven=np.ones(1, np.int64))
        if self.declared.max_ticks is not None and state.ticks[0] >= self.declared.max_ticks:
            return replace(state, alone=np.full(1, FIRST))
        return state

    def ordered(self, state: InterleavingState, word: str) -> InterleavingState:
        # `abort` leaves the first ranker alone, even if another one is proven better.
        return replace(state, alone=np.full(1, FIRST), proven=np.zeros(1, np.int64)) if word == "abort" else state

    def snapshot(self, state: InterleavingState, number: int) -> WeightSnapshot:
        rankers = self.declared.rankers
        serving = rankers if state.alone[0] == RUNNING else (rankers[int(state.alone[0])],)
        return WeightSnapshot(
            number, tuple(1.0 / len(serving) if a in serving else 0.0 for a in range(self.declared.arms))
        )

    def phase(self, state: InterleavingState) -> str:
        if state.alone[0] == RUNNING:
            return "comparing"
        return "decided" if state.proven[0] else "ended without a winner"

    def is_over(self, state: InterleavingState) -> bool:
        return bool(state.alone[0] != RUNNING)

    def runs_by_itself(self, state: InterleavingState) -> bool:
        return self.declared.max_ticks is not None and not self.is_over(state)

    def about(self, state: InterleavingState) -> Mapping[str, Any]:
        low, high = self.preference.limits(state.votes, self.declared.alpha)
        columns: tuple[Floats, ...] = (self.preference.means(state.votes), low, high)
        mean, least, most = ([float(value) for value in column[0]] for column in columns)
        wealth = [float(value) for value in self.preference.log_wealth(state.votes)[0]]
        return {
            "votes": int(state.votes.units[0]),
            "pairs": [list(pair) for pair in self.preference.pairs],
            "difference": mean,
            "low": least,
            "high": most,
            "log_e": wealth,
        }

    def _vote(self, join: Join) -> tuple[float, ...] | None:
        """Return the mean credit of each ranker for a list's clicks; None for a list without clicks."""
        shown = join.shown
        clicked = [] if shown is None else [item for item in join.clicked() if item in shown.items]
        if shown is None or not clicked or len(shown.credits[0]) != len(self.declared.rankers):
            return None
        ballot = Ballot((0,) * len(self.declared.rankers)).with_clicks(credits_of(shown, clicked), len(clicked))
        return ballot.vote()

    def _winner(self, votes: Votes) -> int | None:
        """Return the ranker that is proven better than every other one, None if there is none yet."""
        preferred = self.preference.preferred(votes, self.declared.alpha)[0]
        wins = [0] * len(self.declared.rankers)
        for (first, second), sign in zip(self.preference.pairs, preferred, strict=True):
            if sign:
                wins[first if sign > 0 else second] += 1
        return wins.index(len(wins) - 1) if len(wins) - 1 in wins else None
