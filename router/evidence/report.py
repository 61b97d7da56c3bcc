"""The report on an endpoint: all sections that apply to its log, its policy and its rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from broker.records.endpoint import Endpoint
from router.evidence.estimates import PolicyValue, Ratio, always, log_mean, sample_ratio, values
from router.evidence.recorder import Evidence
from router.evidence.sections import Cell, Curves, Section, Table
from router.evidence.shadow_table import shadow_tables
from router.evidence.standing import e_value, standing
from router.policies.declared import read_policy

UNKNOWN_LEFT_OUT = "decisions left out whose probabilities are not known: their snapshot is not in this log"
HOW_COUNTED = "each reward counts 1 / propensity, so that times with other weights are not pooled (Simpson's paradox)"
VALUE_COLUMNS = ("estimate", "mean", "low", "high", "decisions", "effective", "mean weight", "remark")


def report(evidence: Evidence) -> list[Section]:
    """Return all sections, the most general ones first."""
    return [
        _read(evidence),
        *_curves(evidence),
        _requests(evidence),
        *_ratios(evidence),
        *_rewards(evidence),
        *_always(evidence),
        *_posterior(evidence),
        *standing(evidence.endpoint, evidence.experiment.about(evidence.state)),
        *([] if evidence.shadows is None else shadow_tables(evidence.shadows)),
    ]


def _read(evidence: Evidence) -> Table:
    counts = evidence.counts
    names = {
        "records": "records read",
        "unreadable": "records that could not be read, skipped",
        "decisions": "decisions that count",
        "rewards": "rewards final",
        "joined": "feedback joined",
        "early": "feedback before its decision",
        "duplicate": "came twice",
        "late": "came too late",
        "unusable": "feedback that no reward takes",
        "waiting": "waiting for the end of a horizon",
    }
    rows = [(text, counts[name]) for name, text in names.items() if counts[name] or name in ("records", "decisions")]
    notes = [f"phase: {evidence.phase}"]
    return Table(key="log", title="The log that was read", columns=("what", "number"), rows=rows, notes=notes)


def _curves(evidence: Evidence) -> Iterator[Curves]:
    decisions = evidence.decisions
    if len(evidence.published) < 2 or not len(decisions):
        return
    first_us = int(decisions.accepted_us.min())
    begin_us = min(first_us, evidence.published[1][0])
    times = [max(begin_us, at_us) for at_us, _ in evidence.published]
    until_us = max(int(decisions.accepted_us.max()), times[-1]) + 1
    yield Curves(
        key="weights",
        title="Weights over time",
        names=tuple(evidence.endpoint.arms),
        at_us=times,
        values=[weights for _, weights in evidence.published],
        until_us=until_us,
        notes=[f"{len(times)} snapshots with new weights"],
    )


def _requests(evidence: Evidence) -> Table:
    statuses = sorted({status for arm in evidence.rows.arms.values() for status in arm.statuses})
    rows = [
        (
            arm,
            policy,
            sum(of.statuses.values()),
            of.rows,
            *[of.statuses[status] for status in statuses],
            *of.quantiles_ms(),
        )
        for (arm, policy), of in sorted(evidence.rows.arms.items())
    ]
    columns = ("arm", "policy", "requests", "rows", *statuses, "p50 ms", "p90 ms", "p99 ms")
    notes = [f"{evidence.rows.duplicates} requests came twice: the first counts"] if evidence.rows.duplicates else []
    return Table(key="requests", title="Requests by arm", columns=columns, rows=rows, notes=notes)


def _ratios(evidence: Evidence) -> Iterator[Table]:
    decisions, endpoint = evidence.decisions, evidence.endpoint
    if not len(decisions) or len(endpoint.arms) < 2:
        return
    sticky = read_policy(endpoint).sticky
    found = sample_ratio(decisions, sticky=sticky)
    yield _ratio_table("sample ratio", "Sample ratio of decisions", endpoint, found, sticky=sticky)
    for name, reward in decisions.rewards.items():
        if endpoint.feedback.rewards[name].default != "skip":
            continue
        joined = sample_ratio(decisions, ~np.isnan(reward), sticky=sticky)
        title = f"Sample ratio of decisions with {name}: missing feedback"
        yield _ratio_table(f"sample ratio of {name}", title, endpoint, joined, sticky=sticky)


def _ratio_table(key: str, title: str, endpoint: Endpoint, ratio: Ratio, *, sticky: bool) -> Table:
    total = max(1, ratio.tested)
    rows: list[Sequence[Cell]] = [
        (
            arm,
            int(ratio.observed[place]),
            float(ratio.expected[place]),
            f"{100 * ratio.observed[place] / total:.2f} %",
            f"{100 * ratio.expected[place] / total:.2f} %",
        )
        for place, arm in enumerate(endpoint.arms)
    ]
    verdict = "ALARM: the arms do not get their shares" if ratio.alarm else "as it should be"
    notes = [f"E = {e_value(ratio.log_e)}, an alarm at 1000: {verdict}"]
    if ratio.alarm and "missing" in title:
        notes.append("feedback is missing more often for some arms: it is no sound base for learning")
    if sticky:
        notes.append("keys stick to their arms: the first decision of each key counts")
    if ratio.left_out:
        notes.append(f"{ratio.left_out} {UNKNOWN_LEFT_OUT}")
    columns = ("arm", "observed", "expected", "share", "expected share")
    return Table(key=key, title=title, columns=columns, rows=rows, notes=notes, alarm=ratio.alarm)


def _rewards(evidence: Evidence) -> Iterator[Table]:
    """Yield a table for each reward: the mean of each arm, over the decisions whose horizon is over."""
    decisions, arms = evidence.decisions, tuple(evidence.endpoint.arms)
    for name, reward in decisions.rewards.items():
        known = ~np.isnan(reward)
        rows: list[Sequence[Cell]] = []
        for place, arm in enumerate(arms):
            mine = known & (decisions.arm == place)
            weight = 1.0 / decisions.propensity[mine]
            mean = float((weight * reward[mine]).sum() / weight.sum()) if mine.any() else None
            rows.append((arm, int((decisions.arm == place).sum()), int(mine.sum()), mean))
        columns = ("arm", "decisions", "rewards final", "mean")
        yield Table(key=f"reward {name}", title=f"Reward: {name}", columns=columns, rows=rows, notes=[HOW_COUNTED])


def _always(evidence: Evidence) -> Iterator[Table]:
    """Yield a table for each reward: the estimated mean of the policies "always this arm"."""
    decisions, arms = evidence.decisions, tuple(evidence.endpoint.arms)
    for name, reward in decisions.rewards.items():
        logged, number = log_mean(reward)
        rows: list[Sequence[Cell]] = [("the log", "as it was", logged, None, None, number, None, None, "")]
        for place, arm in enumerate(arms):
            target = always(decisions, place)
            rows += [(f"always {arm}", *value_cells(one)) for one in values(decisions, reward, target)]
        title = f"Estimated reward of another policy: {name}, 95 % intervals"
        yield Table(key=f"value {name}", title=title, columns=("policy", *VALUE_COLUMNS), rows=rows)


def value_cells(one: PolicyValue) -> tuple[Cell, ...]:
    """Return an estimate as the cells of a row, under VALUE_COLUMNS."""
    return one.how, one.value, one.low, one.high, one.used, one.ess, one.mean_weight, one.refused


def _posterior(evidence: Evidence) -> Iterator[Table]:
    """Yield the posterior of each arm's mean, for bandits that have one: quantiles, and the probability to be best."""
    experiment, arms = evidence.experiment, tuple(evidence.endpoint.arms)
    posterior = experiment.posterior(evidence.state, (0.025, 0.5, 0.975))
    if posterior is None:
        return
    best, quantiles = posterior.best, posterior.quantiles
    rows: list[Sequence[Cell]] = []
    for place, arm in enumerate(posterior.arms):
        rows.append((arms[arm], *[float(column[place]) for column in quantiles], float(best[place])))
    columns = ("arm", "2.5 %", "median", "97.5 %", "probably the best")
    title = f"Posterior of the mean of {experiment.rewards[0]}"
    yield Table(key="posterior", title=title, columns=columns, rows=rows)
