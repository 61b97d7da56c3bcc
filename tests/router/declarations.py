"""Declarations as people write them: an endpoint with rewards of every kind, and a policy of each kind for it."""

from __future__ import annotations

from typing import Any

from broker.records.endpoint import Endpoint, read_endpoint
from deploy.yaml_text import documents

ENDPOINT = """
endpoint: rank-home
arms: {v1: rank@1, v2: rank@2, v3: {model: rank, version: 3}}
key: parameters.user_id
deadline: 2s
retry: {attempts: 5, backoff: 200ms..30s, on: [failed]}
holdout: 5%
exclusive: {group: home, slice: [0%, 50%]}
feedback:
  rewards:
    clicked: {type: bool, horizon: 30m, default: 0, duplicates: max}
    watched: {type: unit, default: skip, horizon: 2h}
    spent: {type: real, default: 0, duplicates: sum, horizon: 1d}
    right: {from: truth, score: argmax}
    distance: {from: truth, score: error, output: price, horizon: 7d}
log: {sample: 100%, drop: [card_number]}
"""

POLICIES = {
    "split": "{split: {v1: 90, v2: 10}}",
    "sticky split": "{split: [v1, v2], sticky: true}",
    "shadow": "{shadow: v2, serve: v1, sample: 20%, compare: score}",
    "canary": "{canary: v3, stable: v1}",
    "canary beside a bandit": """
        canary: v3
        stable: {bandit: thompson, arms: [v1, v2], reward: clicked}
        steps: [1%, 5%, 25%, 50%]
        hold: {canary_requests: 500, time: 10m}
        guardrails:
          - {bad: failed, max_ratio: 1.5, max_rate: 0.1%}
          - {bad: slow, over: 250ms, max_ratio: 1.3}
          - {reward: clicked, max_drop: 0.02}
        alpha: 0.05
        on_no_data: rollback
        on_promote: join
        timeout: 24h
        """,
    "sticky canary": "{canary: v3, stable: {bandit: exp3, reward: watched}, sticky: true}",
    "thompson": "{bandit: thompson, reward: clicked, prior: [1, 1], floor: 0.2%, refresh: 5s}",
    "thompson of truth": "{bandit: thompson, reward: right, arms: [v3, v1]}",
    "gaussian thompson": "{bandit: thompson, reward: spent, noise: gaussian, floor: 0.2%, discount: 6h}",
    "epsilon_greedy": "{bandit: epsilon_greedy, reward: clicked, epsilon: 5%}",
    "ucb": "{bandit: ucb, reward: clicked, kind: kl, floor: 1%}",
    "ucb1": "{bandit: ucb, reward: watched, kind: ucb1, floor: 0.01, discount: 30m}",
    "exp3": "{bandit: exp3, reward: clicked, rate: auto, floor: 1%}",
    "exp3 at a rate": "{bandit: exp3, reward: clicked, rate: 0.1, discount: 1d}",
    "linucb": "{bandit: linucb, reward: clicked, features: [hour, len], alpha: 0.5, floor: 1%}",
    "lints": """
        bandit: lints
        reward: distance
        features: [hour, {country: [de, fr, 7]}, {tensor: x, size: 4}]
        scale: 0.3
        ridge: 2
        floor: 0.5%
        """,
    "interleave": "{interleave: [v1, v2], credit: clicked, stop: {alpha: 0.05, max: 14d}}",
    "multileave": """
        interleave: [v3, v1, v2]
        method: probabilistic
        length: 20
        credit: watched
        output: items
        wait: 500ms
        """,
}


def document(policy: str, **more: Any) -> dict[str, Any]:
    """Return a declaration as YAML gives it."""
    return {**documents(ENDPOINT)[0], "policy": documents(policy)[0], **more}


def endpoint_of(policy: str, **more: Any) -> Endpoint:
    """Return the endpoint with a policy, and other keys instead of its own."""
    return read_endpoint(document(policy, **more), source="test")
