"""Estimates of the rewards of a policy that is not declared yet, from the requests in the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from router.declaration.policy import read_config
from router.evidence.estimates import PolicyValue, log_mean, values
from router.evidence.recorder import Evidence
from router.evidence.report import VALUE_COLUMNS, value_cells
from router.evidence.sections import Cell, Section, Table
from router.learning.declared import read_experiment

WHAT_IT_LEARNT = "the bandit learns from the rewards of the log, in order, and weighs a request by those before it"
OF_UNKNOWN_WEIGHTS = "of unknown weights: features that are not in the log, or a request that took too long"


def check_candidate(declared: Endpoint, candidate: Endpoint) -> None:
    """Raise Misconfigured unless a candidate can be compared in the log of the declared policy."""
    name = declared.endpoint
    if candidate.endpoint != name:
        raise Misconfigured(f"the file declares endpoint {candidate.endpoint}, and the log is that of {name}")
    if tuple(candidate.arms) != tuple(declared.arms):
        arms, those = ", ".join(candidate.arms), ", ".join(declared.arms)
        raise Misconfigured(f"endpoint {name}: the file has the arms {arms}, and the log those of {those}, in order")
    tried, logged = read_config(candidate), read_config(declared)
    if tried is None or not tried.is_replayable:
        raise Misconfigured(
            f"endpoint {name}: a split or a bandit can be replayed; for canaries and interleaving there is"
            " millrace route simulate"
        )
    if logged is None or not logged.draws_arms:
        raise Misconfigured(f"endpoint {name}: its policy draws no arm for a request, so its log compares none")


def replay(evidence: Evidence, candidate: Endpoint) -> list[Section]:
    """Return a table of estimates for each reward, the candidate's shares, and the numbers of unused decisions."""
    experiment = read_experiment(candidate)
    names = list(evidence.decisions.rewards if experiment is None else experiment.rewards)
    tables = [_values(evidence, name, [] if experiment is None else [WHAT_IT_LEARNT]) for name in names]
    return [_used(evidence, names), _weights(evidence), *tables]


def _used(evidence: Evidence, names: Sequence[str]) -> Table:
    decisions, counts = evidence.decisions, evidence.counts
    other = sum(sum(arm.statuses.values()) for arm in evidence.rows.arms.values()) - len(decisions)
    rows: list[Sequence[Cell]] = [
        ("decisions that count", len(decisions)),
        ("requests of other policies, pinned, invalid or cancelled", max(0, other)),
        ("came too late or twice", counts["late"] + counts["duplicate"]),
        (
            "of unknown weights: features that are not in the log, or a request that took too long",
            int((~evidence.decisions.is_known).sum()),
        ),
    ]
    for name in names:
        missing = int(np.isnan(decisions.rewards[name]).sum())
        rows.append((f"without a final {name}: its horizon is open, or it is left out", missing))
    return Table(key="used", title="The part of the log that was used", columns=("what", "number"), rows=rows)


def _weights(evidence: Evidence) -> Table:
    decisions = evidence.decisions.only(evidence.decisions.is_known)
    rows: list[Sequence[Cell]] = []
    for place, arm in enumerate(evidence.endpoint.arms):
        mine = decisions.weights[:, place]
        logged = float((decisions.arm == place).mean()) if len(decisions) else None
        rows.append((arm, logged, float(mine.mean()) if len(decisions) else None))
    columns = ("arm", "share in the log", "share it would have had")
    return Table(key="shares", title="Shares", columns=columns, rows=rows)


def _values(evidence: Evidence, name: str, notes: Sequence[str]) -> Table:
    decisions = evidence.decisions
    reward = decisions.rewards[name]
    logged, number = log_mean(reward)
    found = [_better(one, logged) for one in values(decisions, reward, decisions.weights)]
    rows: list[Sequence[Cell]] = [("the log", "as it was", logged, None, None, number, None, None, "")]
    rows += [("the file's", *value_cells(one)) for one in found]
    title = f"Its estimated reward: {name}, 95 % intervals"
    return Table(key=f"value {name}", title=title, columns=("policy", *VALUE_COLUMNS), rows=rows, notes=notes)


def _better(one: PolicyValue, logged: float | None) -> PolicyValue:
    """Add a remark if the whole interval of an estimate is on one side of the log's own mean."""
    if one.refused or logged is None or one.low is None or one.high is None:
        return one
    side = "more than the log" if one.low > logged else "less than the log" if one.high < logged else ""
    return dataclasses.replace(one, refused=side)
