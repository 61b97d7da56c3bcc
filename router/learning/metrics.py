"""The Prometheus series of a learner."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from router.learning.fold import ExperimentFold

COUNTS = ("decisions", "rewards", "joined", "early", "duplicate", "late", "unusable")


class LearnerMetrics:
    """Gauges that are set from a fold: its counts survive restarts, which counters of a process do not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leads = Gauge("millrace_learner_leads", "1 while this learner leads.", registry=registry)
        self._gap = Gauge(
            "millrace_learner_gap",
            "1 when records of the event log were lost before they were folded.",
            ["endpoint"],
            registry=registry,
        )
        self._weight = Gauge(
            "millrace_route_weight",
            "Probability of an arm in the newest snapshot.",
            ["endpoint", "arm"],
            registry=registry,
        )
        self._reward = Gauge(
            "millrace_route_reward_mean",
            "Mean reward of an arm, as the policy counts it.",
            ["endpoint", "arm"],
            registry=registry,
        )
        self._e_value = Gauge(
            "millrace_route_log_e_value",
            "Natural logarithm of a test's wealth.",
            ["endpoint", "test"],
            registry=registry,
        )
        self._stage = Gauge(
            "millrace_route_stage",
            "1 for the phase that an experiment is in.",
            ["endpoint", "phase"],
            registry=registry,
        )
        self._joins = Gauge(
            "millrace_route_joins",
            "Decisions that wait for feedback, or feedback for its decision.",
            ["endpoint"],
            registry=registry,
        )
        self._counts = Gauge(
            "millrace_route_feedback",
            "Decisions, rewards and feedback so far, by their outcome.",
            ["endpoint", "what"],
            registry=registry,
        )
        self._phases: dict[str, str] = {}

    def show(self, fold: ExperimentFold[Any]) -> None:
        """Set all gauges of one endpoint."""
        endpoint, experiment = fold.spec.endpoint, fold.experiment
        about = experiment.about(fold.state)
        for arm, weight in zip(fold.spec.arms, fold.snapshot.weights, strict=True):
            self._weight.labels(endpoint, arm).set(weight)
        for arm, mean in zip(fold.spec.arms, about.get("means", ()), strict=False):
            if mean is not None:
                self._reward.labels(endpoint, arm).set(mean)
        for test in ("harm_log_e", "proof_log_e", "log_e"):
            for place, value in enumerate(about.get(test, ())):
                self._e_value.labels(endpoint, f"{test.removesuffix('log_e')}{place}").set(value)
        phase = experiment.phase(fold.state)
        before = self._phases.get(endpoint)
        if before not in (None, phase):
            self._stage.remove(endpoint, before)
        self._phases[endpoint] = phase
        self._stage.labels(endpoint, phase).set(1)
        self._joins.labels(endpoint).set(len(fold.joins.by_uid))
        for what in COUNTS:
            self._counts.labels(endpoint, what).set(fold.progress.counts[what])

    def gap(self, endpoint: str) -> None:
        """Set the gap gauge of an endpoint."""
        self._gap.labels(endpoint).set(1)
