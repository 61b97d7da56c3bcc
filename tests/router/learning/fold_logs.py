"""Helpers of `test_fold.py` that other tests use, too."""

from __future__ import annotations

from typing import Any

from broker.messages import Record
from router.learning.bandit import BanditExperiment
from router.learning.canary import CanaryExperiment, GuardrailWatch, NestedBandit
from router.learning.experiment import Experiment
from router.policies.canary import BadEvents, Canary, RewardDrop
from router.policies.exp3 import Exp3
from router.policies.thompson import Thompson
from tests.router.learning.traces import (
    trace,
)

THOMPSON = BanditExperiment(learning=Thompson(arms=3, floor=0.01), arms=3, among=(0, 1, 2), reward="clicked")
FADING = BanditExperiment(learning=Thompson(arms=3, half_life=30.0), arms=3, among=(0, 1, 2), reward="clicked")
EXP3 = BanditExperiment(learning=Exp3(arms=3, floor=0.01), arms=3, among=(0, 1, 2), reward="clicked")
STAGED = CanaryExperiment(
    canary=Canary(
        canary=2,
        stable=(1.0, 1.0, 0.0),
        steps=(0.1, 0.3),
        hold_requests=5,
        hold_ticks=30,
        guardrails=(BadEvents(), RewardDrop()),
        timeout_ticks=10_000,
        sticky=True,
    ),
    watches=(GuardrailWatch(), GuardrailWatch(reward="clicked")),
    nested=NestedBandit(learning=Thompson(arms=2), joined=Thompson(arms=3), among=(0, 1), reward="clicked"),
)
EXPERIMENTS: dict[str, Experiment[Any]] = {"thompson": THOMPSON, "fading": FADING, "exp3": EXP3, "canary": STAGED}


def log_of(name: str, requests: int = 300, seed: int = 1) -> list[Record]:
    policy = "canary" if name == "canary" else EXPERIMENTS[name].policy
    return trace(requests, seed, policy=policy, keys=40 if name == "canary" else 0)
