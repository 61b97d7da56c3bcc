"""Checks of a policy against the endpoint that declares it. Each check raises ValueError."""

from __future__ import annotations

from collections.abc import Collection

from broker.records.endpoint import Endpoint
from broker.records.rewards import Reward
from broker.support.strict import shown


def check_endpoint(endpoint: Endpoint) -> None:
    """Check the parts of an endpoint that any policy needs: its slice of the keys, and its rewards from a truth."""
    _check_exclusive(endpoint)
    _check_truth(endpoint)


def check_arms(where: str, arms: Collection[str], endpoint: Endpoint) -> None:
    """Check that the arms at a key of the policy are declared, and different."""
    for arm in arms:
        if arm not in endpoint.arms:
            raise ValueError(f"policy: {where}: {shown(arm)} is not an arm; declared arms: {', '.join(endpoint.arms)}")
    if len(set(arms)) < len(arms):
        raise ValueError(f"policy: {where}: an arm is there twice")


def declared_reward(where: str, name: str, endpoint: Endpoint) -> Reward:
    """Return the reward that a key of the policy names."""
    rewards = endpoint.feedback.rewards
    if name not in rewards:
        known = ", ".join(rewards) or "none"
        raise ValueError(f"policy: {where}: {shown(name)} is not among feedback.rewards; declared rewards: {known}")
    return rewards[name]


def check_bounded(where: str, name: str, reward: Reward) -> None:
    """Check that a reward is from 0 to 1."""
    if reward.type == "real":
        raise ValueError(f"policy: {where}: {name} is a real reward, and this needs one from 0 to 1: type bool or unit")


def check_not_first(role: str, arm: str, endpoint: Endpoint) -> None:
    """Check that an arm on trial is not the first one, which answers the requests outside the experiment."""
    first = next(iter(endpoint.arms))
    if arm != first:
        return
    remedy = f"the first arm, {first}, and that is the {role}: declare another one first"
    if endpoint.holdout > 0.0:
        raise ValueError(f"holdout: it gets {remedy}")
    if endpoint.exclusive is not None and endpoint.exclusive.slice != (0.0, 1.0):
        low, high = endpoint.exclusive.slice
        raise ValueError(f"exclusive: requests outside the slice, {low:g} to {high:g}, get {remedy}")


def _check_exclusive(endpoint: Endpoint) -> None:
    if endpoint.exclusive is not None and endpoint.key is None:
        raise ValueError("exclusive: it divides keys, and the endpoint has none: declare key: parameters.user_id or so")


def _check_truth(endpoint: Endpoint) -> None:
    """Check that the outputs from which a reward is scored are in the log."""
    for name, reward in endpoint.feedback.rewards.items():
        if reward.source != "truth":
            continue
        where = f"feedback.rewards.{name}: only logged outputs can be scored by the truth"
        if endpoint.log.sample < 1.0:
            raise ValueError(f"{where}, and log.sample keeps {endpoint.log.sample:g} of them: leave it at 100%")
        if reward.output in endpoint.log.drop:
            raise ValueError(f"{where}, and log.drop holds {reward.output!r}")
