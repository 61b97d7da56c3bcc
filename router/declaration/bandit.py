"""The keys of policies that learn, one model a `bandit`: a policy by itself, or the stable side of a canary.

Whether arms and rewards are there is checked with the endpoint that they belong to: `read_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag, WithJsonSchema, field_validator, model_validator

from broker.support.strict import (
    NAMED,
    Duration,
    DurationBounds,
    Fraction,
    ShareBounds,
    StrictModel,
    nearest,
    number,
    shown,
)
from router.declaration.features import Feature, FeatureDeclared, TensorFeature

DEFAULT_FLOOR = 0.002


def _rate(value: Any) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    try:
        read = number(value)
    except ValueError:
        read = 0.0
    if not 0.0 < read <= 100.0:
        raise ValueError(f"{shown(value)} is no rate: write auto, or a number above 0 and at most 100")
    return read


_FLOOR_MOST = 0.5  # there are two arms at least
_Floor = Annotated[Fraction, ShareBounds(most=_FLOOR_MOST)]
_FloorNeeded = Annotated[
    Fraction,
    ShareBounds(
        above=True,
        most=_FLOOR_MOST,
        why="without a floor every probability is 0 or 1, and logs compare no arms",
    ),
]
_Rate = Annotated[
    float | Literal["auto"],
    BeforeValidator(_rate),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 100}, {"const": "auto"}]}),
]
_Count = Annotated[float, Field(ge=0.01, le=1e6), BeforeValidator(number)]
_ArmName = Annotated[str, Field(json_schema_extra=NAMED)]
_TWO_OR_NONE: dict[str, Any] = {"uniqueItems": True, "not": {"minItems": 1, "maxItems": 1}}


class BanditConfig(StrictModel):
    """What all of them have. `arms` empty: all of the endpoint's (for a canary's stable side: but the canary).

    `floor` is the least probability of an arm; `refresh` is how often new probabilities are published.
    """

    bandit: str
    reward: str = Field(json_schema_extra=NAMED)
    arms: tuple[_ArmName, ...] = Field(default=(), json_schema_extra=_TWO_OR_NONE)
    floor: _Floor = DEFAULT_FLOOR
    refresh: Annotated[Duration, DurationBounds("1s", "1h", "refresh")] = 5.0

    @property
    def takes_real(self) -> bool:
        """Whether rewards may be any numbers; else they are from 0 to 1."""
        return False

    @property
    def dimensions(self) -> int:
        """How many numbers a request's features have; 0 for a bandit that looks at none."""
        return 0


class CountingConfig(BanditConfig):
    """Those that count rewards; with `discount` older ones count less: half after so long."""

    discount: Annotated[Duration, DurationBounds("1s", "365d", "half-life")] | None = None


class ThompsonConfig(CountingConfig):
    """An arm is drawn as often as it is probably the best. `prior`: successes and failures before the first reward."""

    bandit: Literal["thompson"]
    noise: Literal["gaussian"] | None = None
    prior: tuple[_Count, _Count] = (1.0, 1.0)

    @property
    def takes_real(self) -> bool:
        """See BanditConfig."""
        return self.noise == "gaussian"

    @model_validator(mode="after")
    def _consistent(self) -> ThompsonConfig:
        if self.noise == "gaussian" and "prior" in self.model_fields_set:
            raise ValueError("prior counts successes and failures, and rewards with noise: gaussian are neither")
        return self


class EpsilonGreedyConfig(CountingConfig):
    """The arm with the best mean, and any arm with probability `epsilon`."""

    bandit: Literal["epsilon_greedy"]
    epsilon: Fraction = 0.05


class UcbConfig(CountingConfig):
    """The arm that could be the best. It draws nothing by itself: only the floor gives the others a probability."""

    bandit: Literal["ucb"]
    kind: Literal["kl", "ucb1"] = "kl"
    floor: _FloorNeeded


class Exp3Config(CountingConfig):
    """Exponential weights, for rewards that may follow no law. `rate` is how fast it learns."""

    bandit: Literal["exp3"]
    rate: _Rate = "auto"


class LinearConfig(BanditConfig):
    """Those that look at `features` of a request; `ridge` is the weight of the prior."""

    features: tuple[FeatureDeclared, ...] = Field(json_schema_extra={"minItems": 1, "uniqueItems": True})
    ridge: Annotated[float, Field(ge=1e-3, le=1e6), BeforeValidator(number)] = 1.0

    @property
    def takes_real(self) -> bool:
        """See BanditConfig."""
        return True

    @property
    def dimensions(self) -> int:
        """The intercept and the features."""
        return 1 + sum(feature.dimensions for feature in self.features)

    @field_validator("features")
    @classmethod
    def _different(cls, value: tuple[Feature, ...]) -> tuple[Feature, ...]:
        if not value:
            raise ValueError("at least one is expected; a bandit that looks at none is thompson or ucb")
        names = [(isinstance(feature, TensorFeature), feature.name) for feature in value]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise ValueError(f"{shown(twice[1])} is there twice")
        return value


class LinUcbConfig(LinearConfig):
    """The arm that could be the best for this request: its prediction and `alpha` times the deviation of that."""

    bandit: Literal["linucb"]
    alpha: Annotated[float, Field(ge=0.0, le=100.0), BeforeValidator(number)] = 0.5
    floor: _FloorNeeded


class LinThompsonConfig(LinearConfig):
    """An arm is drawn as often as it is probably the best for this request; `scale` is how much a prediction errs."""

    bandit: Literal["lints"]
    scale: Annotated[float, Field(gt=0.0, le=100.0), BeforeValidator(number)] = 0.3


Counting = (
    Annotated[ThompsonConfig, Tag("ThompsonConfig")]
    | Annotated[EpsilonGreedyConfig, Tag("EpsilonGreedyConfig")]
    | Annotated[UcbConfig, Tag("UcbConfig")]
    | Annotated[Exp3Config, Tag("Exp3Config")]
)
BANDITS: Mapping[str, type[BanditConfig]] = {
    "thompson": ThompsonConfig,
    "epsilon_greedy": EpsilonGreedyConfig,
    "ucb": UcbConfig,
    "exp3": Exp3Config,
    "linucb": LinUcbConfig,
    "lints": LinThompsonConfig,
}


def bandit_named(word: Any) -> type[BanditConfig]:
    """Return the model of a bandit; raises ValueError naming those that there are."""
    if not isinstance(word, str) or word not in BANDITS:
        raise ValueError(f"bandit: {shown(word)} is none; {nearest(word, BANDITS, what='bandits')}")
    return BANDITS[word]
