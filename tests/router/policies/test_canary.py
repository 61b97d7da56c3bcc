"""A canary goes on step by step, goes back when it does harm or time runs out, and is promoted on proof alone."""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import Any

import numpy as np
import pytest

from router.policies.canary import BadEvents, Canary, CanaryPhase, CanaryState, RewardDrop
from router.stats.arrays import Bools, Ints

STEPS = (0.01, 0.05, 0.25, 0.5)


def canary(**more: Any) -> Canary:
    given: dict[str, Any] = {"canary": 2, "stable": (3.0, 1.0, 0.0), "hold_requests": 100, "hold_ticks": 10}
    return Canary(**{**given, "steps": STEPS, "timeout_ticks": 1000, **more})


def served(policy: Canary, state: CanaryState, requests: int = 100) -> CanaryState:
    return policy.fold_requests(state, np.array([requests]))


def bad(policy: Canary, state: CanaryState, ours: int, others: int, guardrail: int = 0) -> CanaryState:
    """Fold bad events at the present share."""
    whose = np.array([True] * ours + [False] * others)
    run = np.zeros(len(whose), np.int64)
    return policy.fold_bad(state, guardrail, run, whose, np.full(len(whose), policy.share(state)[0]))


def rewarded(policy: Canary, state: CanaryState, ours: float, others: float, pairs: int, rail: int = 0) -> CanaryState:
    whose = np.array([True, False] * pairs)
    return policy.fold_rewards(state, rail, np.zeros(2 * pairs, np.int64), whose, np.where(whose, ours, others))


def test_it_starts_at_the_first_step_and_the_others_share_the_rest() -> None:
    assert canary().first().weights == pytest.approx((0.99 * 0.75, 0.99 * 0.25, 0.01))


def test_a_step_needs_its_requests_and_its_time() -> None:
    policy = canary()
    state = policy.start(1)
    assert policy.tick(served(policy, state, 99), 10).step[0] == 0
    assert policy.tick(served(policy, state), 9).step[0] == 0
    state = policy.tick(served(policy, state), 10)
    assert (state.step[0], state.requests[0], state.entered[0]) == (1, 0, 10)
    assert policy.weights(state)[0, 2] == 0.05
    assert policy.tick(served(policy, state), 9).step[0] == 1


def at_the_last_step(policy: Canary) -> CanaryState:
    state = policy.start(1)
    for _ in policy.steps[1:]:
        state = policy.tick(served(policy, state), 10)
    return state


def test_it_is_promoted_after_the_last_hold_on_proof_and_not_without() -> None:
    policy = canary()
    state = at_the_last_step(policy)
    held = policy.tick(served(policy, state), 10)
    assert held.phase[0] == CanaryPhase.RUNNING
    assert held.step[0] == len(STEPS) - 1
    proven = bad(policy, held, ours=40, others=60)
    assert policy.tick(bad(policy, state, ours=40, others=60), 1).phase[0] == CanaryPhase.RUNNING
    promoted = policy.tick(proven, 1)
    assert promoted.phase[0] == CanaryPhase.PROMOTED
    assert policy.weights(promoted)[0].tolist() == [0.0, 0.0, 1.0]


def test_harm_aborts_at_once_at_any_step_and_for_good() -> None:
    policy = canary()
    state = bad(policy, policy.start(1), ours=4, others=0)
    assert (state.phase[0], state.tripped[0]) == (CanaryPhase.ABORTED, 0)
    assert policy.weights(state)[0].tolist() == [0.75, 0.25, 0.0]
    later = policy.tick(served(policy, bad(policy, state, ours=0, others=1000)), 5000)
    assert later.phase[0] == CanaryPhase.ABORTED
    assert later.harm[0] is not state.harm[0]
    assert np.array_equal(np.asarray(later.harm[0]), np.asarray(state.harm[0]))


def test_without_any_event_it_holds_and_then_goes_back() -> None:
    policy = canary()
    state = policy.tick(policy.start(1), 999)
    assert (state.phase[0], state.step[0]) == (CanaryPhase.RUNNING, 0)
    assert policy.tick(state, 1).phase[0] == CanaryPhase.TIMED_OUT
    assert policy.share(policy.tick(state, 1))[0] == 0.0


def test_without_a_request_it_goes_back_after_one_hold_if_declared_so() -> None:
    policy = canary(on_no_data="rollback")
    assert policy.tick(policy.start(1), 9).phase[0] == CanaryPhase.RUNNING
    assert policy.tick(policy.start(1), 10).phase[0] == CanaryPhase.STARVED
    assert policy.tick(served(policy, policy.start(1), 1), 10).phase[0] == CanaryPhase.RUNNING


def test_each_of_several_guardrails_has_its_part_of_alpha_and_any_one_aborts() -> None:
    policy = canary(guardrails=(BadEvents(1.5), BadEvents(1.3), RewardDrop(0.1)), steps=(0.2,))
    one = canary(steps=(0.2,))
    numbers = [
        next(n for n in range(1, 60) if bad(each, each.start(1), ours=n, others=0).phase[0] == CanaryPhase.ABORTED)
        for each in (one, policy)
    ]
    assert numbers[1] > numbers[0]
    assert bad(policy, policy.start(1), ours=numbers[1], others=0, guardrail=1).tripped[0] == 1
    assert rewarded(policy, policy.start(1), ours=0.2, others=0.9, pairs=60, rail=2).tripped[0] == 2


def test_promotion_needs_the_proof_of_every_guardrail() -> None:
    policy = canary(guardrails=(BadEvents(1.5), RewardDrop(0.1)), steps=(0.5,))
    state = policy.tick(served(policy, policy.start(1)), 10)
    events = bad(policy, state, ours=40, others=60)
    both = rewarded(policy, events, ours=0.8, others=0.8, pairs=200, rail=1)
    only_rewards = rewarded(policy, state, ours=0.8, others=0.8, pairs=200, rail=1)
    phases = [policy.tick(each).phase[0] for each in (events, only_rewards, both)]
    assert phases == [CanaryPhase.RUNNING, CanaryPhase.RUNNING, CanaryPhase.PROMOTED]


def test_where_nothing_ever_goes_wrong_a_rate_can_be_proven_instead_of_a_ratio() -> None:
    policy = canary(guardrails=(BadEvents(1.5, max_rate=0.001),), steps=(0.5,))
    enough = policy.tick(served(policy, policy.start(1), 6000), 10)
    assert enough.phase[0] == CanaryPhase.PROMOTED
    assert policy.tick(served(policy, policy.start(1), 3000), 10).phase[0] == CanaryPhase.RUNNING
    failing = bad(policy, served(policy, policy.start(1), 6000), ours=3, others=3)
    assert policy.tick(failing, 10).phase[0] == CanaryPhase.RUNNING
    with pytest.raises(ValueError, match="independent requests"):
        canary(guardrails=(BadEvents(1.5, max_rate=0.001),), sticky=True)


def test_events_that_are_not_to_count_change_nothing() -> None:
    policy = canary()
    whose, share = np.ones(5, np.bool_), np.full(5, 0.01)
    run = np.zeros(5, np.int64)
    state = policy.fold_bad(policy.start(1), 0, run, whose, share, np.zeros(5, np.bool_))
    assert flat(state) == flat(policy.start(1))
    first_only = policy.fold_bad(policy.start(1), 0, run, whose, share, np.array([True, False, False, False, False]))
    assert flat(first_only) == flat(bad(policy, policy.start(1), ours=1, others=0))


def test_a_guardrail_refuses_events_that_it_does_not_watch() -> None:
    policy = canary(guardrails=(BadEvents(), RewardDrop()))
    with pytest.raises(TypeError, match="watches bad events"):
        rewarded(policy, policy.start(1), 0.5, 0.5, 1, rail=0)
    with pytest.raises(TypeError, match="watches rewards"):
        bad(policy, policy.start(1), 1, 0, guardrail=1)


@pytest.mark.parametrize(
    "wrong", [{"stable": (1.0, 1.0, 1.0)}, {"stable": (0.0, 0.0, 0.0)}, {"steps": (0.5, 1.0)}, {"guardrails": ()}]
)
def test_a_wrong_declaration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"are expected|needs guardrails"):
        canary(**wrong)


def test_one_run_is_the_same_as_it_is_among_many_bit_for_bit() -> None:
    policy = canary(guardrails=(BadEvents(), RewardDrop()), hold_requests=5, steps=(0.4, 0.45))
    random = np.random.default_rng(1)
    many, ones = policy.start(5), [policy.start(1) for _ in range(5)]
    for _ in range(60):
        run, whose = random.integers(5, size=20), random.random(20) < 0.4
        reward, requests = random.random(20), random.integers(4, size=5)
        many = turn(policy, many, run, whose, reward, requests)
        for each in range(5):
            own = run == each
            zeros = np.zeros(int(own.sum()), np.int64)
            ones[each] = turn(policy, ones[each], zeros, whose[own], reward[own], requests[each : each + 1])
    assert len(set(many.step)) > 1 or len(set(many.phase)) > 1
    for each in range(5):
        assert flat(ones[each], 0) == flat(many, each)


def turn(policy: Canary, state: CanaryState, run: Ints, whose: Bools, reward: Any, requests: Ints) -> CanaryState:
    state = policy.fold_bad(state, 0, run, whose, policy.share(state)[run])
    state = policy.fold_rewards(state, 1, run, whose, reward)
    return policy.tick(policy.fold_requests(state, requests))


def flat(state: CanaryState, run: int = 0) -> list[bytes]:
    """Return the bytes of everything that a state knows about one run."""
    parts: list[bytes] = []
    for field in fields(CanaryState):
        value = getattr(state, field.name)
        tests: tuple[Any, ...] = value if isinstance(value, tuple) else (value,)
        for test in tests:
            arrays = test if isinstance(test, np.ndarray) else astuple(test)
            parts += [array[run].tobytes() for array in ([arrays] if isinstance(arrays, np.ndarray) else arrays)]
    return parts
