"""A kind of policy: the keys of its declaration, and the policy, experiment and reports that follow from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from broker.support.strict import StrictModel

if TYPE_CHECKING:  # this base class stands below the packages whose types its methods return
    from router.evidence.sections import Section
    from router.learning.experiment import Experiment
    from router.policies.policy import Policy
    from router.simulation.spec import SimulationSpec


class PolicyConfig(StrictModel):
    """The keys of one kind of policy. Its name is one of the keys, and a name in `router/declaration/registry.py`.

    Only `policy` is required. Gateways load the module, too: import numerical libraries beyond numpy inside methods.
    """

    commands: ClassVar[tuple[str, ...]] = ()
    """The operator commands that the experiment obeys, beside `pause`, `resume` and `set`: `promote`, `abort`."""

    is_replayable: ClassVar[bool] = False
    """Whether `millrace route replay` can compute the weights that this policy would have had in another one's log."""

    draws_arms: ClassVar[bool] = True
    """Whether each request is answered by one arm, drawn with a logged probability: such a log can compare policies."""

    has_shadow: ClassVar[bool] = False
    """Whether its policy has companions and no merging: the second leg is computed and logged, but never answers."""

    @classmethod
    def models(cls) -> tuple[type[PolicyConfig], ...]:
        """Return the models of this kind for the JSON Schema."""
        return (cls,)

    @classmethod
    def model_of(cls, policy: Mapping[str, Any]) -> type[PolicyConfig]:
        """Return the model that reads these keys; raises ValueError if there is none."""
        del policy
        return cls

    def fitted(self, endpoint: Endpoint) -> Self:
        """Return this configuration with defaults from the endpoint; raises ValueError if it does not fit it.

        `router/declaration/checks.py` has checks of arms and rewards.
        """
        del endpoint
        return self

    @abstractmethod
    def policy(self, endpoint: Endpoint) -> Policy:
        """Return the policy that routers draw arms from, before any snapshot."""

    def experiment(self, endpoint: Endpoint) -> Experiment[Any] | None:
        """Return the experiment that learners fold; None for a policy that does not learn."""
        del endpoint
        return None

    def standing(self, endpoint: Endpoint, about: Mapping[str, Any]) -> list[Section]:
        """Return tables of the experiment's state for operators, from the `about` of a snapshot."""
        del endpoint, about
        return []

    def subject(self, endpoint: Endpoint) -> str:
        """Return the name of the thing that the operator commands in `commands` change."""
        return endpoint.endpoint

    def advice(self, endpoint: Endpoint, phase: str, weights: Sequence[float]) -> str:
        """Return the change of the declaration that makes the result of an ended experiment permanent.

        `phase` and `weights`, by arm, are those of the result; empty if it is unknown.
        """
        best = [arm for arm, weight in zip(endpoint.arms, weights, strict=False) if weight >= 0.5]
        if best:
            return f"policy: {{split: [{best[0]}]}} makes it permanent"
        return f"no arm of {', '.join(endpoint.arms)} is proven the best; the first serves alone"

    def simulated(self, endpoint: Endpoint, spec: SimulationSpec) -> list[Section]:
        """Return the report of a simulation with artificial traffic; raises Misconfigured if there is none."""
        del spec
        raise Misconfigured(f"endpoint {endpoint.endpoint}: its policy learns nothing: there is nothing to simulate")
