"""Recorded results of other libraries for the same histories, so that the tests do not depend on them.

Their trees are large (mabwiser 2.7.4 pulls pandas, seaborn and scikit-learn; savvi 0.3.1 pulls cvxpy and its solvers;
pybandits 8.4.1 pulls jax and numpyro), and the tests need one value of each kind. Recorded with
numpy 2.4.6 and scipy 1.17.1. To record again: install the three (pybandits with --no-deps, beside loguru and pydantic)
and compute from the same inputs

- `MAB([0, 1, 2], policy)`: `fit(ARMS, REWARDS)`, with `contexts=FEATURES` for LinUCB, then `predict_expectations()`,
- `Multinomial(alpha, shares, k)`: `update(counts)`, then the logarithm of `odds`,
- the estimators' `estimate_policy_value_with_confidence_interval`.
"""

from __future__ import annotations

import numpy as np

ARMS = [0, 1, 2, 0, 1, 0, 2, 2, 1, 0, 1, 1]
REWARDS = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
FEATURES = [
    [1, 0.5, -0.25],
    [0.1, 0.2, 0.3],
    [1, 0, 0],
    [0.5, 0.5, 0.5],
    [0, 1, 0],
    [0.3, -0.2, 0.7],
    [-0.4, 0.1, 0.9],
    [0.8, 0.8, 0],
    [0.25, 0.25, 0.5],
    [0.6, 0.1, 0.2],
    [0, 0.4, 0.4],
    [0.9, -0.9, 0.1],
]

# mabwiser 2.7.4: UCB1(alpha=1), EpsilonGreedy(epsilon=0), ThompsonSampling's counts, LinUCB(alpha=0.5, l2_lambda=1)
UCB1_BOUNDS = [1.8646539036373577, 1.5969767599674527, 1.6204247959699247]
GREEDY_MEANS = [0.75, 0.6, 0.3333333333333333]
THOMPSON_SUCCESSES, THOMPSON_FAILURES = [4, 4, 2], [2, 3, 3]
LINUCB_ASKED = [[0.2, 0.4, 0.6], [1, -1, 0.5]]
LINUCB_BOUNDS = [
    [0.6384820509924432, 0.6517251685810062, 0.564965658164357],
    [0.9624660103859188, 0.9941979728384256, 0.7144760865553391],
]

# savvi 0.3.1: Multinomial(alpha, shares, k): the logarithm of its odds after the counts
MULTINOMIAL = [
    ([0.5, 0.5], 100.0, [360, 290], 2.2661863935511946),
    ([0.7, 0.2, 0.1], 100.0, [730, 240, 165], 9.61311174290816),
    ([0.34, 0.33, 0.33], 1000.0, [400, 300, 300], 3.2680102630563397),
]

# pybandits 8.4.1: InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting, DoublyRobust over this log
_NUMBER = np.arange(400)
LOGGED_ARM = (_NUMBER * _NUMBER + _NUMBER // 3) % 3
LOGGED_REWARD = ((_NUMBER * 7) % 11 < 4 + 2 * LOGGED_ARM).astype(np.float64)
LOGGED_PROPENSITY = np.array([0.4, 0.35, 0.25])[LOGGED_ARM]
TARGET = np.array([0.3, 0.3, 0.4])
PREDICTED = np.stack([0.3 + 0.001 * (_NUMBER % 50), 0.5 + 0.002 * (_NUMBER % 20), 0.6 - 0.001 * (_NUMBER % 30)], axis=1)
IPS, SNIPS, DOUBLY_ROBUST = 0.6323035714285714, 0.5927879061825122, 0.59981325
