"""`bandit`: an arm is drawn by probabilities that follow from rewards. The key's value names the bandit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import BeforeValidator, Field, field_validator

from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from broker.support.strict import NAMED, Duration, DurationBounds, Fraction, ShareBounds, nearest, number, shown
from router.declaration.checks import check_arms, declared_reward
from router.declaration.features import Feature, FeatureDeclared, TensorFeature
from router.declaration.kind import PolicyConfig
from router.declaration.policy import ticks, uniform
from router.declaration.registry import BANDITS
from router.evidence.sections import Section
from router.evidence.standing import bandit_tables
from router.policies.learned import LearnedLinearPolicy, LearnedPolicy
from router.policies.policy import Policy
from router.simulation.spec import SimulationSpec

if TYPE_CHECKING:  # numerical libraries are imported where they are needed
    from broker.records.rewards import Reward
    from router.learning.experiment import Experiment
    from router.policies.learning import Learning

DEFAULT_FLOOR = 0.002
MODEL_LIMIT = 20_000  # numbers in the matrices of a linear policy: arms x dimensions squared

_FLOOR_MOST = 0.5  # there are two arms at least
_Floor = Annotated[Fraction, ShareBounds(most=_FLOOR_MOST)]
FloorNeeded = Annotated[
    Fraction,
    ShareBounds(
        above=True,
        most=_FLOOR_MOST,
        why="without a floor every probability is 0 or 1, and logs compare no arms",
    ),
]
"""The floor of a bandit that draws deterministically between snapshots."""

_ArmName = Annotated[str, Field(json_schema_extra=NAMED)]
_TWO_OR_NONE: dict[str, Any] = {"uniqueItems": True, "not": {"minItems": 1, "maxItems": 1}}


class BanditConfig(PolicyConfig):
    """The keys of all bandits. `arms` empty: all arms of the endpoint (on a canary's stable side all but the canary).

    `floor` is the least probability of an arm; new probabilities are published every `refresh`.
    """

    is_replayable: ClassVar[bool] = True
    uses_features: ClassVar[bool] = False

    bandit: str
    reward: str = Field(json_schema_extra=NAMED)
    arms: tuple[_ArmName, ...] = Field(default=(), json_schema_extra=_TWO_OR_NONE)
    floor: _Floor = DEFAULT_FLOOR
    refresh: Annotated[Duration, DurationBounds("1s", "1h", "refresh")] = 5.0

    @property
    def takes_real(self) -> bool:
        """Whether rewards may be any numbers; otherwise they are from 0 to 1."""
        return False

    @classmethod
    def models(cls) -> tuple[type[PolicyConfig], ...]:
        return tuple(BANDITS.values())

    @classmethod
    def model_of(cls, policy: Mapping[str, Any]) -> type[PolicyConfig]:
        return bandit_named(policy["bandit"])

    def fitted(self, endpoint: Endpoint) -> Self:
        return self.fitted_among(list(endpoint.arms), endpoint, prefix="")

    def fitted_among(self, all_arms: Sequence[str], endpoint: Endpoint, *, prefix: str) -> Self:
        """Return this configuration with its arms, by default `all_arms`; raises ValueError if it does not fit.

        `prefix` is the place of the bandit in the policy, such as `stable.`.
        """
        check_arms(f"{prefix}arms", self.arms, endpoint)
        arms = tuple(arm for arm in all_arms if not self.arms or arm in self.arms)
        if len(arms) < 2:
            raise ValueError(f"policy: {prefix}arms: a bandit chooses among 2 arms or more, and it has {len(arms)}")
        reward = declared_reward(f"{prefix}reward", self.reward, endpoint)
        if not self.takes_real and reward.type == "real":
            raise ValueError(
                f"policy: {prefix}reward: {self.reward} is a real reward, and {self.bandit} needs one from 0 to 1: "
                "thompson with noise: gaussian, linucb and lints take any"
            )
        if self.floor * len(arms) > 1.0:
            raise ValueError(
                f"policy: {prefix}floor: {self.floor:g} for each of {len(arms)} arms is more than 1 in all: "
                f"{1.0 / len(arms):.4g} is the most"
            )
        self.check_size(len(arms), prefix)
        return self.model_copy(update={"arms": arms})

    def check_size(self, arms: int, prefix: str) -> None:
        """Raise ValueError if the state for so many arms would be too large."""

    @abstractmethod
    def learning(self, arms: int) -> Any:
        """Return the bandit's fold with so many arms: arm i is `self.arms[i]`, a tick is a second.

        It is a `Learning`, or a `Contextual` if the bandit uses features.
        """

    def learning_from(self, reward: Reward, arms: int) -> Any:
        """Return `learning(arms)`; raises ValueError for a reward that the bandit cannot learn from."""
        if reward.type == "real" and not self.takes_real:
            raise ValueError(f"{self.bandit} learns from rewards from 0 to 1, and {self.reward} is real")
        return self.learning(arms)

    def policy(self, endpoint: Endpoint) -> Policy:
        return LearnedPolicy(self.bandit, uniform(self.arms, endpoint.arms))

    def experiment(self, endpoint: Endpoint) -> Experiment[Any]:
        from router.learning.bandit import BanditExperiment

        learning: Learning[Any] = self.learning_from(endpoint.feedback.rewards[self.reward], len(self.arms))
        return BanditExperiment(learning=learning, **self._experiment_keys(endpoint))

    def _experiment_keys(self, endpoint: Endpoint) -> dict[str, Any]:
        return {
            "arms": len(endpoint.arms),
            "among": places_of(self.arms, endpoint),
            "reward": self.reward,
            "refresh_ticks": ticks(self.refresh),
        }

    def standing(self, endpoint: Endpoint, about: Mapping[str, Any]) -> list[Section]:
        return bandit_tables(self.reward, tuple(endpoint.arms), self.arms, about)

    def simulated(self, endpoint: Endpoint, spec: SimulationSpec) -> list[Section]:
        from router.simulation.reports import simulated_bandit

        reward = endpoint.feedback.rewards[self.reward]
        if reward.type == "real":
            raise Misconfigured(
                f"{self.reward} is a real reward, and simulations draw 0 or 1: see millrace route replay"
            )
        return simulated_bandit(
            lambda: self.learning_from(reward, len(self.arms)),
            bandit=self.bandit,
            reward=self.reward,
            arms=self.arms,
            refresh_s=self.refresh,
            horizon_s=reward.horizon,
            spec=spec,
        )


class CountingConfig(BanditConfig):
    """The keys of bandits that count rewards. With `discount` a reward counts half after that time."""

    discount: Annotated[Duration, DurationBounds("1s", "365d", "half-life")] | None = None


class LinearConfig(BanditConfig):
    """The keys of bandits that use `features` of a request; `ridge` is the weight of the prior."""

    uses_features: ClassVar[bool] = True

    features: tuple[FeatureDeclared, ...] = Field(json_schema_extra={"minItems": 1, "uniqueItems": True})
    ridge: Annotated[float, Field(ge=1e-3, le=1e6), BeforeValidator(number)] = 1.0

    @property
    def takes_real(self) -> bool:
        return True

    @property
    def dimensions(self) -> int:
        """The length of a request's feature vector: the intercept and the features."""
        return 1 + sum(feature.dimensions for feature in self.features)

    @field_validator("features")
    @classmethod
    def _different(cls, value: tuple[Feature, ...]) -> tuple[Feature, ...]:
        if not value:
            raise ValueError("at least one is expected; a bandit without features is thompson or ucb")
        names = [(isinstance(feature, TensorFeature), feature.name) for feature in value]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise ValueError(f"{shown(twice[1])} is there twice")
        return value

    def check_size(self, arms: int, prefix: str) -> None:
        size = arms * self.dimensions**2
        if size > MODEL_LIMIT:
            raise ValueError(
                f"policy: {prefix}features: {arms} arms x {self.dimensions} dimensions squared (the features and an "
                f"intercept) are {size}: at most {MODEL_LIMIT} can be learned"
            )

    def policy(self, endpoint: Endpoint) -> Policy:
        among = places_of(self.arms, endpoint)
        return LearnedLinearPolicy(
            name=self.bandit,
            features=self.features,
            weights=uniform(self.arms, endpoint.arms),
            among=among,
            learning=lambda: self.learning(len(among)),
        )

    def experiment(self, endpoint: Endpoint) -> Experiment[Any]:
        from router.learning.contextual import ContextualExperiment

        return ContextualExperiment(learning=self.learning(len(self.arms)), **self._experiment_keys(endpoint))

    def simulated(self, endpoint: Endpoint, spec: SimulationSpec) -> list[Section]:
        raise Misconfigured(f"{self.bandit} uses features, which a simulation does not have: see millrace route replay")


def bandit_named(word: Any) -> type[BanditConfig]:
    """Return the model of a bandit; raises ValueError naming the known ones."""
    if not isinstance(word, str) or word not in BANDITS:
        raise ValueError(f"bandit: {shown(word)} is not a bandit; {nearest(word, BANDITS, what='bandits')}")
    return cast(type[BanditConfig], BANDITS[word])


def places_of(arms: Sequence[str], endpoint: Endpoint) -> tuple[int, ...]:
    """Return the places of arms among an endpoint's arms."""
    known = list(endpoint.arms)
    return tuple(known.index(arm) for arm in arms)
