"""Whether a policy fits the endpoint that declares it: its arms, its rewards, its key. Each check raises ValueError."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import singledispatch
from typing import Any, TypeVar

from broker.records.endpoint import Endpoint
from broker.records.rewards import Reward
from broker.support.strict import shown
from router.declaration.bandit import BanditConfig, LinearConfig
from router.declaration.canary import CanaryConfig, RewardGuardrail
from router.declaration.plain import InterleaveConfig, ShadowConfig, SplitConfig
from router.interleaving.interleave import check_method

MODEL_LIMIT = 20_000  # numbers in the matrices of a linear policy: arms x dimensions squared

_C = TypeVar("_C")


def checked(config: _C, endpoint: Endpoint) -> _C:
    """Return a policy's configuration with the arms that it leaves out; raises ValueError saying what does not fit."""
    _check_exclusive(endpoint)
    _check_truth(endpoint)
    fitted: _C = _fitted(config, endpoint)
    return fitted


@singledispatch
def _fitted(config: Any, _: Endpoint) -> Any:
    return config


@_fitted.register
def _split(config: SplitConfig, endpoint: Endpoint) -> SplitConfig:
    _check_arms("split", config.split, endpoint)
    return config


@_fitted.register
def _shadow(config: ShadowConfig, endpoint: Endpoint) -> ShadowConfig:
    _check_arms("shadow", [config.shadow], endpoint)
    _check_arms("serve", [config.serve], endpoint)
    if config.shadow == config.serve:
        raise ValueError(f"policy: shadow: {config.shadow} serves, too: a shadow is another arm")
    _check_first("shadow", config.shadow, endpoint)
    return config


@_fitted.register
def _interleave(config: InterleaveConfig, endpoint: Endpoint) -> InterleaveConfig:
    _check_arms("interleave", config.interleave, endpoint)
    try:
        check_method(config.method, len(config.interleave), config.length)
    except ValueError as exc:
        raise ValueError(f"policy: {exc}") from exc
    reward = _reward("credit", config.credit, endpoint)
    _check_bounded("credit", config.credit, reward)
    if reward.source == "truth":
        raise ValueError(f"policy: credit: {config.credit} is from: truth, and a click is a value of an item")
    if config.wait >= endpoint.deadline:
        raise ValueError(
            f"policy: wait: {config.wait:g} s for a ranker leave nothing of the deadline, {endpoint.deadline:g} s"
        )
    return config


@_fitted.register
def _bandit(config: BanditConfig, endpoint: Endpoint) -> BanditConfig:
    return _fitted_bandit(config, endpoint, "", list(endpoint.arms))


@_fitted.register
def _canary(config: CanaryConfig, endpoint: Endpoint) -> CanaryConfig:
    _check_arms("canary", [config.canary], endpoint)
    _check_first("canary", config.canary, endpoint)
    if config.sticky and endpoint.key is None:
        raise ValueError("policy: sticky: the endpoint has no key: declare one, such as key: parameters.user_id")
    for place, rail in enumerate(config.guardrails):
        if isinstance(rail, RewardGuardrail):
            where = f"guardrails.{place}.reward"
            _check_bounded(where, rail.reward, _reward(where, rail.reward, endpoint))
    if isinstance(config.stable, str):
        _check_stable("stable", [config.stable], config, endpoint)
        return config
    _check_stable("stable.arms", config.stable.arms, config, endpoint)
    others = [arm for arm in endpoint.arms if arm != config.canary]
    return config.model_copy(update={"stable": _fitted_bandit(config.stable, endpoint, "stable.", others)})


def _check_stable(where: str, arms: Sequence[str], config: CanaryConfig, endpoint: Endpoint) -> None:
    _check_arms(where, arms, endpoint)
    if config.canary in arms:
        raise ValueError(f"policy: {where}: {config.canary} is the canary: it cannot be on the stable side, too")


def _fitted_bandit(config: BanditConfig, endpoint: Endpoint, prefix: str, all_arms: list[str]) -> BanditConfig:
    """Check a bandit, at `prefix` of the policy; without arms it has `all_arms`."""
    _check_arms(f"{prefix}arms", config.arms, endpoint)
    arms = tuple(arm for arm in all_arms if not config.arms or arm in config.arms)
    if len(arms) < 2:
        raise ValueError(f"policy: {prefix}arms: a bandit chooses among 2 arms or more, and it has {len(arms)}")
    reward = _reward(f"{prefix}reward", config.reward, endpoint)
    if not config.takes_real and reward.type == "real":
        raise ValueError(
            f"policy: {prefix}reward: {config.reward} is a real reward, and {config.bandit} needs one from 0 to 1: "
            "thompson with noise: gaussian, linucb and lints take any"
        )
    if config.floor * len(arms) > 1.0:
        raise ValueError(
            f"policy: {prefix}floor: {config.floor:g} for each of {len(arms)} arms is more than 1 in all: "
            f"{1.0 / len(arms):.4g} is the most"
        )
    _check_size(config, len(arms), prefix)
    return config.model_copy(update={"arms": arms})


def _check_size(config: BanditConfig, arms: int, prefix: str) -> None:
    size = arms * config.dimensions**2
    if isinstance(config, LinearConfig) and size > MODEL_LIMIT:
        raise ValueError(
            f"policy: {prefix}features: {arms} arms x {config.dimensions} dimensions squared (the features and an "
            f"intercept) are {size}: at most {MODEL_LIMIT} can be learned"
        )


def _check_arms(where: str, arms: Collection[str], endpoint: Endpoint) -> None:
    for arm in arms:
        if arm not in endpoint.arms:
            raise ValueError(f"policy: {where}: {shown(arm)} is not an arm; declared arms: {', '.join(endpoint.arms)}")
    if len(set(arms)) < len(arms):
        raise ValueError(f"policy: {where}: an arm is there twice")


def _reward(where: str, name: str, endpoint: Endpoint) -> Reward:
    rewards = endpoint.feedback.rewards
    if name not in rewards:
        known = ", ".join(rewards) or "none"
        raise ValueError(f"policy: {where}: {shown(name)} is not among feedback.rewards; declared rewards: {known}")
    return rewards[name]


def _check_bounded(where: str, name: str, reward: Reward) -> None:
    if reward.type == "real":
        raise ValueError(f"policy: {where}: {name} is a real reward, and this needs one from 0 to 1: type bool or unit")


def _check_first(word: str, arm: str, endpoint: Endpoint) -> None:
    """Refuse an arm that is only tried where it would answer whoever is outside the experiment."""
    first = next(iter(endpoint.arms))
    if arm != first:
        return
    remedy = f"the first arm, {first}, and that is the {word}: declare another one first"
    if endpoint.holdout > 0.0:
        raise ValueError(f"holdout: it gets {remedy}")
    if endpoint.exclusive is not None and endpoint.exclusive.slice != (0.0, 1.0):
        low, high = endpoint.exclusive.slice
        raise ValueError(f"exclusive: who is outside the slice, {low:g} to {high:g}, gets {remedy}")


def _check_exclusive(endpoint: Endpoint) -> None:
    if endpoint.exclusive is not None and endpoint.key is None:
        raise ValueError("exclusive: it divides keys, and the endpoint has none: declare key: parameters.user_id or so")


def _check_truth(endpoint: Endpoint) -> None:
    """Refuse rewards that would be scored from outputs which are not in the log."""
    for name, reward in endpoint.feedback.rewards.items():
        if reward.source != "truth":
            continue
        where = f"feedback.rewards.{name}: only logged outputs can be scored by the truth"
        if endpoint.log.sample < 1.0:
            raise ValueError(f"{where}, and log.sample keeps {endpoint.log.sample:g} of them: leave it at 100%")
        if reward.output in endpoint.log.drop:
            raise ValueError(f"{where}, and log.drop holds {reward.output!r}")
