"""The probability to be the best arm is right, for equal arms and for very unequal ones."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, norm, t

from router.policies.learning import one_run
from router.policies.thompson import GaussianThompson, Thompson
from router.stats.arrays import Floats
from router.stats.best_arm import best_of_betas, best_of_few_normals, best_of_normals, best_of_students

TOLERANCE = 5e-4
DRAWS = 200_000


def betas() -> list[tuple[list[float], list[float]]]:
    return [
        ([1, 1], [1, 1]),
        ([1, 1000], [1, 9000]),
        ([3, 40], [7, 60]),
        ([1, 1, 1], [1, 200, 50_000]),
        ([901, 880, 2, 1], [101, 122, 1, 1]),
        ([1, 2, 3, 4, 5], [300, 300, 300, 300, 300]),
    ]


@pytest.mark.parametrize(("successes", "failures"), betas())
def test_betas_agree_with_integration_by_pieces(successes: list[float], failures: list[float]) -> None:
    arms = [beta(a, b) for a, b in zip(successes, failures, strict=True)]
    found = best_of_betas(np.array([successes]), np.array([failures]))[0]
    assert found == pytest.approx(integrated(arms, 0.0, 1.0), abs=TOLERANCE)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("deviations", [[1.0, 1.0, 1.0], [1.0, 0.01, 3.0], [0.001, 2.0, 0.05]])
def test_normals_and_students_agree_with_integration_by_pieces(deviations: list[float]) -> None:
    means, freedom = [0.0, 0.3, 0.25], [3.0, 30.0, 300.0]
    pairs = list(zip(means, deviations, strict=True))
    normals = best_of_normals(np.array([means]), np.array([deviations]))[0]
    assert normals == pytest.approx(integrated([norm(m, s) for m, s in pairs], -40.0, 40.0), abs=TOLERANCE)
    students = best_of_students(np.array([means]), np.array([deviations]), np.array([freedom]))[0]
    exact = integrated([t(v, m, s) for (m, s), v in zip(pairs, freedom, strict=True)], -400.0, 400.0)
    assert students == pytest.approx(exact, abs=TOLERANCE)


@pytest.mark.parametrize("few", [2, 3])
def test_few_normals_have_their_exact_chances(few: int) -> None:
    """Beside integration by pieces, which is exact to 1e-12 where the widths are not too unequal for its cuts."""
    random = np.random.default_rng(few)
    for _ in range(60):
        means = np.round(random.standard_normal(few), 1).tolist()  # some are equal
        deviations = (10.0 ** random.uniform(-1.5, 0.5, few)).tolist()
        found = [best_of_few_normals(arm, means, [d * d for d in deviations]) for arm in range(few)]
        assert sum(found) == pytest.approx(1.0, abs=1e-12)
        exact = integrated([norm(m, s) for m, s in zip(means, deviations, strict=True)], -40.0, 40.0)
        assert found == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(
    ("means", "deviations", "chances"),
    [
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 0.0, 0.0], [1e-9, 1e-9, 1e-9], [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 0.0, 0.0], [1.0, 1e-9, 1e-9], [1 / 2, 1 / 4, 1 / 4]),
        ([0.0, 0.0, -1.0], [1e-9, 1e-9, 1e-9], [1 / 2, 1 / 2, 0.0]),
        ([-1.0, 0.0, 0.0], [1e-9, 1e-9, 1e-9], [0.0, 1 / 2, 1 / 2]),
        ([1e6, 0.0, 0.0], [1e-9, 1e3, 1e3], [1.0, 0.0, 0.0]),
        ([-1e9, 1e9, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]),
        ([0.0, 1e-170, -1e-170], [0.01, 0.01, 0.01], [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, -1e-320, 1e-200], [1.0, 1.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 1e-321, 3e-321], [1e-3, 1e-3, 1e-3], [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 1e-300, 2e-300], [1e-9, 1e-9, 1e-9], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_few_normals_at_the_edges(means: list[float], deviations: list[float], chances: list[float]) -> None:
    for order in permutations(range(3)):
        turned = [means[arm] for arm in order], [deviations[arm] ** 2 for arm in order]
        found = [best_of_few_normals(place, *turned) for place in range(3)]
        assert found == pytest.approx([chances[arm] for arm in order], abs=1e-9)


@pytest.mark.parametrize("narrow", [1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0, 3.0])
def test_few_normals_of_very_unequal_widths(narrow: float, gap: float) -> None:
    """One broad arm sees the narrow two as one; which of them is ahead does not depend on it."""
    for mean in (-1.5, 0.0, 0.3):
        means, variances = [mean, 0.0, gap * narrow], [1.0, narrow**2, narrow**2]
        broad = norm.cdf(mean)
        first = norm.cdf(-gap / 2**0.5)
        found = [best_of_few_normals(arm, means, variances) for arm in range(3)]
        assert found == pytest.approx([broad, (1 - broad) * first, (1 - broad) * (1 - first)], abs=3 * narrow + 1e-12)


def integrated(arms: list[Any], low: float, high: float) -> list[float]:
    """Return each arm's probability: density times the others' distribution functions, by Gauss and Legendre's rule.

    64 nodes in each piece between neighbouring quantiles of all arms.
    """
    levels = [1e-12, 1e-9, 1e-6, 1e-3, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1 - 1e-6, 1 - 1e-9]
    cuts = np.unique(np.clip([low, high, *(float(arm.ppf(level)) for arm in arms for level in levels)], low, high))
    node, weight = np.polynomial.legendre.leggauss(64)
    x = cuts[:-1, None] + (node + 1.0) / 2.0 * np.diff(cuts)[:, None]
    scale = weight / 2.0 * np.diff(cuts)[:, None]
    below = [arm.cdf(x) for arm in arms]
    return [
        float((arm.pdf(x) * np.prod(below[:place] + below[place + 1 :], axis=0) * scale).sum())
        for place, arm in enumerate(arms)
    ]


@pytest.mark.parametrize(
    "policy",
    [Thompson(arms=3), GaussianThompson(arms=3, noise=0.4), GaussianThompson(arms=3)],
    ids=["betas", "normals", "students"],
)
def test_samples_have_the_probabilities_that_the_quadrature_says(policy: Thompson | GaussianThompson) -> None:
    """Each share to the quadrature's tolerance and 4.5 standard errors: a false alarm once in 50 000."""
    random = np.random.default_rng(1)
    arm = random.integers(3, size=60)
    reward = (random.random(60) < np.array([0.5, 0.6, 0.4])[arm]).astype(np.float64)
    state = policy.fold(policy.start(1), one_run(list(arm), list(reward), [1 / 3] * 60))
    shares: Floats = policy.weights(state)[0]
    drawn = np.bincount(policy.sample(state, random, DRAWS)[0], minlength=3) / DRAWS
    assert (np.abs(drawn - shares) < TOLERANCE + 4.5 * np.sqrt(shares * (1 - shares) / DRAWS)).all()


def test_known_and_estimated_noise_agree_when_much_is_known() -> None:
    random = np.random.default_rng(2)
    arm = random.integers(3, size=3000)
    reward = np.array([1.0, 1.02, 0.9])[arm] + 0.5 * random.standard_normal(3000)
    seen = one_run(list(arm), list(reward), [1 / 3] * 3000)
    weights = [
        policy.weights(policy.fold(policy.start(1), seen))[0]
        for policy in (GaussianThompson(arms=3, noise=0.5), GaussianThompson(arms=3))
    ]
    assert weights[0] == pytest.approx(weights[1], abs=0.02)
