"""`thompson`: the probability of an arm is its probability to be the best (Thompson 1933).

The probabilities are computed, and decisions are drawn from them, so the logged propensity is exact even if the
quadrature is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from router.policies.counts import Counting, Sums
from router.stats.arrays import ONE, Floats, Ints
from router.stats.best_arm import best_of_betas, best_of_normals, best_of_students


@dataclass(frozen=True, slots=True, kw_only=True)
class Thompson(Counting):
    """Rewards in [0, 1], beta posteriors. `prior` is successes and failures before the first reward."""

    prior: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        Counting.__post_init__(self)
        if not all(count > 0.0 for count in self.prior):
            raise ValueError(f"prior {self.prior}: numbers of successes and failures above 0 are expected")

    @property
    def name(self) -> str:
        return "thompson"

    def shares(self, state: Sums) -> Floats:
        return best_of_betas(*self.posterior(state))

    def posterior(self, state: Sums) -> tuple[Floats, Floats]:
        """Return the successes and the failures of the beta posteriors, both (runs, arms)."""
        return self.prior[0] + state.rewards / ONE, self.prior[1] + (state.pulls - state.rewards) / ONE

    def quantile(self, state: Sums, level: float) -> Floats:
        """Return the quantile of each arm's mean (runs, arms)."""
        found: Floats = betaincinv(*self.posterior(state), level)
        return found

    def sample(self, state: Sums, random: np.random.Generator, draws: int = 1) -> Ints:
        """Return arms (runs, draws) drawn by sampling the posteriors; `shares` are their probabilities."""
        successes, failures = self.posterior(state)
        values = random.beta(successes[:, None], failures[:, None], (len(successes), draws, self.arms))
        arms: Ints = values.argmax(axis=-1)
        return arms


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianThompson(Counting):
    """Real rewards, normal posteriors around `prior_mean` with `prior_deviation`.

    `noise` is the standard deviation of one reward. If it is None it is estimated for each arm, with a
    normal-inverse-gamma posterior that starts as if `prior_pulls` rewards had had the prior's deviation. Rewards beyond
    256 of either sign count as 256: declare them in a unit in which they are far smaller.
    """

    prior_mean: float = 0.0
    prior_deviation: float = 1.0
    prior_pulls: float = 1.0
    noise: float | None = None

    lowest: ClassVar[float] = -256.0
    highest: ClassVar[float] = 256.0

    def __post_init__(self) -> None:
        Counting.__post_init__(self)
        widths = (self.prior_deviation, self.prior_pulls, 1.0 if self.noise is None else self.noise)
        if not all(width > 0.0 for width in widths):
            raise ValueError("prior_deviation, prior_pulls and noise: numbers above 0 are expected")

    @property
    def name(self) -> str:
        return "thompson"

    def shares(self, state: Sums) -> Floats:
        if self.noise is not None:
            return best_of_normals(*self._known_noise(state, self.noise))
        return best_of_students(*self._estimated_noise(state))

    def quantile(self, state: Sums, level: float) -> Floats:
        """Return the quantile of each arm's mean (runs, arms)."""
        if self.noise is not None:
            mean, deviation = self._known_noise(state, self.noise)
            return mean + deviation * float(ndtri(level))
        mean, scale, freedom = self._estimated_noise(state)
        found: Floats = mean + scale * stdtrit(freedom, level)
        return found

    def sample(self, state: Sums, random: np.random.Generator, draws: int = 1) -> Ints:
        """Return arms (runs, draws) drawn by sampling the posteriors."""
        shape = (len(state.pulls), draws, self.arms)
        if self.noise is not None:
            mean, scale = self._known_noise(state, self.noise)
            values = mean[:, None] + scale[:, None] * random.standard_normal(shape)
        else:
            mean, scale, freedom = self._estimated_noise(state)
            values = mean[:, None] + scale[:, None] * random.standard_t(np.broadcast_to(freedom[:, None], shape))
        arms: Ints = values.argmax(axis=-1)
        return arms

    def _known_noise(self, state: Sums, noise: float) -> tuple[Floats, Floats]:
        """Return means and deviations of the posteriors (Gelman et al., Bayesian Data Analysis, 2.11 and 2.12)."""
        before = self.prior_deviation**-2
        precision = before + state.pulls / ONE / noise**2
        mean = (before * self.prior_mean + state.rewards / ONE / noise**2) / precision
        return mean, precision**-0.5

    def _estimated_noise(self, state: Sums) -> tuple[Floats, Floats, Floats]:
        """Return locations, scales and degrees of freedom of the means' posteriors (the same book, 3.3)."""
        pulls, rewards, squares = state.pulls / ONE, state.rewards / ONE, state.squares / ONE
        average = rewards / np.maximum(pulls, 1.0 / ONE)
        spread = np.maximum(squares - rewards * average, 0.0)
        weight = self.prior_pulls + pulls
        freedom = self.prior_pulls + 1.0 + pulls
        away = self.prior_pulls * pulls / weight * (average - self.prior_mean) ** 2
        variance = ((self.prior_pulls + 1.0) * self.prior_deviation**2 + spread + away) / freedom
        mean = (self.prior_pulls * self.prior_mean + rewards) / weight
        return mean, np.sqrt(variance / weight), freedom
