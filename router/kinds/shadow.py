"""`shadow`: one arm serves, and another one gets a copy of the same requests."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field

from broker.records.endpoint import Endpoint
from broker.support.strict import NAMED, Fraction
from router.declaration.checks import check_arms, check_not_first
from router.declaration.kind import PolicyConfig
from router.policies.policy import Policy
from router.policies.shadow import Shadow


class ShadowConfig(PolicyConfig):
    """`serve` answers; the arm `shadow` gets a `sample` of the same requests, and its output `compare` is compared."""

    draws_arms: ClassVar[bool] = False
    has_shadow: ClassVar[bool] = True

    shadow: str = Field(json_schema_extra=NAMED)
    serve: str = Field(json_schema_extra=NAMED)
    sample: Fraction = 1.0
    compare: str = Field(default="", max_length=256)

    def fitted(self, endpoint: Endpoint) -> Self:
        check_arms("shadow", [self.shadow], endpoint)
        check_arms("serve", [self.serve], endpoint)
        if self.shadow == self.serve:
            raise ValueError(f"policy: shadow: {self.shadow} serves, too: a shadow is another arm")
        check_not_first("shadow", self.shadow, endpoint)
        return self

    def policy(self, endpoint: Endpoint) -> Policy:
        arms = tuple(endpoint.arms)
        return Shadow(len(arms), arms.index(self.serve), arms.index(self.shadow), self.sample, self.compare)
