"""`canary`: a new arm gets more and more of the traffic while no guardrail shows harm. A pure fold of the log.

Harm is tested after every event, with a total error probability of `alpha` for any number of tests. A canary is only
promoted if it is proven to be not much worse; without that proof it times out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

import numpy as np

from router.policies.snapshot import WeightSnapshot
from router.stats.arrays import Bools, Floats, Ints, log_mean_exp
from router.stats.eprocess import EventTest, Pairs, PairTest, better_than, rarer_than, worse_than


class CanaryPhase(IntEnum):
    """The phase of a canary. All but RUNNING are final."""

    RUNNING = 0
    PROMOTED = 1
    ABORTED = 2  # a guardrail has shown harm
    TIMED_OUT = 3
    STARVED = 4  # a whole hold without a single request, with on_no_data: rollback


@dataclass(frozen=True, slots=True)
class BadEvents:
    """A guardrail on bad events; promotion needs the proof of less than `max_ratio` times as many as the others have.

    The canary is aborted when it is shown to have more bad events than the others. If almost none occur, no ratio can
    be proven: with `max_rate` a proof that less than this share of the canary's requests is bad counts as well (the
    mean of both proofs' wealth is a test against "too many by either measure").
    """

    max_ratio: float = 1.5
    max_rate: float | None = None

    @property
    def harm(self) -> EventTest:
        """The test that aborts."""
        return worse_than(1.0)

    @property
    def proof(self) -> EventTest:
        """The test that allows promotion."""
        return better_than(self.max_ratio)


@dataclass(frozen=True, slots=True)
class RewardDrop:
    """A guardrail on rewards in [0, 1]; promotion needs the proof of a mean less than `max_drop` lower."""

    max_drop: float = 0.02

    @property
    def harm(self) -> PairTest:
        """The test that aborts."""
        return PairTest()

    @property
    def proof(self) -> PairTest:
        """The test that allows promotion."""
        return PairTest(self.max_drop)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryState:
    """Per run (runs,): phase, step and its `requests` to the canary; ticks since the start, and at the step's start.

    `tripped` is the guardrail that aborted, or -1; `served` are the canary's requests at all steps. `harm` and `proof`
    hold each guardrail's two tests, `bad` the canary's bad events by guardrail.
    """

    phase: Ints
    step: Ints
    requests: Ints
    ticks: Ints
    entered: Ints
    tripped: Ints
    served: Ints
    bad: tuple[Ints, ...]
    harm: tuple[Ints | Pairs, ...]
    proof: tuple[Ints | Pairs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The state machine of a canary. `stable` are the weights of the other arms, 0 at `canary`; they share the rest.

    Each step, the last one included, lasts until the canary has had `hold_requests` and `hold_ticks` are over. Each of
    m guardrails aborts at alpha / m. Promotion needs every guardrail's proof at alpha; since all are needed, alpha is
    not divided there. On a sticky endpoint only the first bad event of a key may be folded (`counted`): the events of a
    key are not independent trials.
    """

    canary: int
    stable: tuple[float, ...]
    steps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    hold_requests: int = 500
    hold_ticks: int = 600
    guardrails: tuple[BadEvents | RewardDrop, ...] = (BadEvents(),)
    alpha: float = 0.05
    on_no_data: Literal["hold", "rollback"] = "hold"
    timeout_ticks: int = 86_400
    sticky: bool = False

    def __post_init__(self) -> None:
        if self.stable[self.canary] != 0.0 or not sum(self.stable) > 0.0:
            raise ValueError(f"stable {self.stable}: weights of the other arms are expected, and 0 for the canary")
        if not self.guardrails or not all(0.0 < share < 1.0 for share in self.steps):
            raise ValueError("a canary needs guardrails, and steps above 0 % and below 100 %")
        if self.sticky and any(isinstance(rail, BadEvents) and rail.max_rate for rail in self.guardrails):
            raise ValueError("max_rate needs independent requests: on a sticky endpoint those of a key are not")

    @property
    def name(self) -> str:
        return "canary"

    def first(self) -> WeightSnapshot:
        return WeightSnapshot(0, tuple(float(weight) for weight in self.weights(self.start(1))[0]))

    def start(self, runs: int) -> CanaryState:
        """Return the state at the first step."""
        return CanaryState(
            phase=np.full(runs, CanaryPhase.RUNNING),
            step=np.zeros(runs, np.int64),
            requests=np.zeros(runs, np.int64),
            ticks=np.zeros(runs, np.int64),
            entered=np.zeros(runs, np.int64),
            tripped=np.full(runs, -1),
            served=np.zeros(runs, np.int64),
            bad=tuple(np.zeros(runs, np.int64) for _ in self.guardrails),
            harm=tuple(rail.harm.start(runs) for rail in self.guardrails),
            proof=tuple(rail.proof.start(runs) for rail in self.guardrails),
        )

    def share(self, state: CanaryState) -> Floats:
        """Return the canary's probability (runs,): its step's, 1 when promoted, else 0."""
        running = np.asarray(self.steps)[state.step]
        return np.where(
            state.phase == CanaryPhase.RUNNING, running, np.where(state.phase == CanaryPhase.PROMOTED, 1.0, 0.0)
        )

    def weights(self, state: CanaryState) -> Floats:
        """Return the probability of each arm (runs, arms)."""
        share = self.share(state)[:, None]
        weights = (1.0 - share) * (np.asarray(self.stable) / sum(self.stable))
        weights[:, self.canary] = share[:, 0]
        return weights

    def fold_requests(self, state: CanaryState, requests: Ints) -> CanaryState:
        """Return the state after some more requests to the canary (runs,)."""
        new = requests * (state.phase == CanaryPhase.RUNNING)
        return replace(state, requests=state.requests + new, served=state.served + new)

    def fold_bad(
        self, state: CanaryState, guardrail: int, run: Ints, canary: Bools, share: Floats, counted: Bools | None = None
    ) -> CanaryState:
        """Return the state after bad events of a BadEvents guardrail: flat arrays; `share` is the canary's when drawn.

        `counted`, if given, leaves out events: later ones of a key on a sticky endpoint, and those of pinned requests.
        """
        rail = self.guardrails[guardrail]
        harm, proof = state.harm[guardrail], state.proof[guardrail]
        if not isinstance(rail, BadEvents) or isinstance(harm, Pairs) or isinstance(proof, Pairs):
            raise TypeError(f"guardrail {guardrail} watches rewards, not bad events")
        kept = self._kept(state, run, counted)
        run, canary, share = run[kept], canary[kept], share[kept]
        harm, proof = rail.harm.fold(harm, run, canary, share), rail.proof.fold(proof, run, canary, share)
        bad = state.bad[guardrail] + np.bincount(run[canary], minlength=len(state.phase))
        state = replace(state, bad=(*state.bad[:guardrail], bad, *state.bad[guardrail + 1 :]))
        return self._tested(state, guardrail, harm, proof)

    def fold_rewards(
        self, state: CanaryState, guardrail: int, run: Ints, canary: Bools, reward: Floats, counted: Bools | None = None
    ) -> CanaryState:
        """Return the state after rewards of a RewardDrop guardrail: flat arrays, in the order of the log."""
        rail = self.guardrails[guardrail]
        harm, proof = state.harm[guardrail], state.proof[guardrail]
        if not isinstance(rail, RewardDrop) or not isinstance(harm, Pairs) or not isinstance(proof, Pairs):
            raise TypeError(f"guardrail {guardrail} watches bad events, not rewards")
        kept = self._kept(state, run, counted)
        run, canary, reward = run[kept], canary[kept], reward[kept]
        harm, proof = rail.harm.fold(harm, run, canary, reward), rail.proof.fold(proof, run, canary, reward)
        return self._tested(state, guardrail, harm, proof)

    def tick(self, state: CanaryState, ticks: Ints | int = 1) -> CanaryState:
        """Return the state after `ticks` of the log's clock: promoted, timed out, at the next step, or unchanged.

        At most one of these happens in a call; the learner calls it once a tick.
        """
        running = state.phase == CanaryPhase.RUNNING
        now = state.ticks + np.where(running, ticks, 0)
        over = running & (now - state.entered >= self.hold_ticks)
        held = over & (state.requests >= self.hold_requests)
        last = state.step == len(self.steps) - 1
        starved = over & (state.requests == 0) & (self.on_no_data == "rollback")
        phase = np.where(starved, CanaryPhase.STARVED, state.phase)
        phase = np.where(running & (now >= self.timeout_ticks), CanaryPhase.TIMED_OUT, phase)
        phase = np.where(held & last & self.proven(state), CanaryPhase.PROMOTED, phase)
        moves = held & ~last & (phase == CanaryPhase.RUNNING)
        return replace(
            state,
            phase=phase,
            ticks=now,
            step=state.step + moves,
            requests=np.where(moves, 0, state.requests),
            entered=np.where(moves, now, state.entered),
        )

    def log_wealth(self, state: CanaryState) -> tuple[list[Floats], list[Floats]]:
        """Return each guardrail's log wealth (runs,) of its test for harm, and of its proof."""
        places = range(len(self.guardrails))
        harm = [_log_wealth(self.guardrails[place].harm, state.harm[place]) for place in places]
        return harm, [self._proof(state, place) for place in places]

    def proven(self, state: CanaryState) -> Bools:
        """Return True for the runs (runs,) in which every guardrail has its proof."""
        level = np.log(1.0 / self.alpha)
        proven: Bools = np.all([self._proof(state, place) >= level for place in range(len(self.guardrails))], axis=0)
        return proven

    def _proof(self, state: CanaryState, guardrail: int) -> Floats:
        """Return the log wealth of a guardrail's proof (runs,)."""
        rail = self.guardrails[guardrail]
        wealth = _log_wealth(rail.proof, state.proof[guardrail])
        if not isinstance(rail, BadEvents) or rail.max_rate is None:
            return wealth
        return log_mean_exp(np.stack([wealth, rarer_than(rail.max_rate, state.bad[guardrail], state.served)], axis=-1))

    def _kept(self, state: CanaryState, run: Ints, counted: Bools | None) -> Bools:
        kept: Bools = state.phase[run] == CanaryPhase.RUNNING
        return kept if counted is None else kept & counted

    def _tested(self, state: CanaryState, guardrail: int, harm: Ints | Pairs, proof: Ints | Pairs) -> CanaryState:
        """Return the state with new tests of one guardrail: aborted where harm is shown."""
        level = np.log(len(self.guardrails) / self.alpha)
        trips = (state.phase == CanaryPhase.RUNNING) & (_log_wealth(self.guardrails[guardrail].harm, harm) >= level)
        return replace(
            state,
            phase=np.where(trips, CanaryPhase.ABORTED, state.phase),
            tripped=np.where(trips, guardrail, state.tripped),
            harm=_placed(state.harm, guardrail, harm),
            proof=_placed(state.proof, guardrail, proof),
        )


def _placed(tests: tuple[Ints | Pairs, ...], place: int, test: Ints | Pairs) -> tuple[Ints | Pairs, ...]:
    return (*tests[:place], test, *tests[place + 1 :])


def _log_wealth(test: EventTest | PairTest, state: Ints | Pairs) -> Floats:
    if isinstance(test, PairTest):
        return state.log_wealth if isinstance(state, Pairs) else np.zeros(0)
    return np.zeros(0) if isinstance(state, Pairs) else test.log_wealth(state)
