"""The tables of an experiment's state, from the figures of a snapshot."""

from __future__ import annotations

import math
from typing import Any

import pytest

from router.evidence.report import report
from router.evidence.sections import Curves, as_json, sampled
from router.evidence.standing import e_value, standing
from router.learning.declared import read_experiment
from tests.router.evidence.logs import THOMPSON, endpoint, learner_log, recorded
from tests.router.learning.test_counting import clicks, shown_list
from tests.router.learning.traces import TracedRequest, numbered, tick

CANARY = {
    "canary": "c",
    "stable": {"bandit": "thompson", "reward": "clicked", "arms": ["a", "b"]},
    "guardrails": [{"bad": "failed"}, {"bad": "slow", "over": "250ms"}, {"reward": "clicked"}],
}
INTERLEAVE = {"interleave": ["a", "b"], "credit": "clicked"}


def tables(policy: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    return as_json(standing(endpoint(policy), about))


@pytest.mark.parametrize("policy", [THOMPSON, CANARY, INTERLEAVE], ids=["bandit", "canary", "interleave"])
def test_the_figures_of_an_experiment_are_shown_and_missing_ones_are_left_out(policy: dict[str, Any]) -> None:
    experiment = read_experiment(endpoint(policy))
    assert experiment is not None
    about = dict(experiment.about(experiment.start()))
    assert tables(policy, about)
    assert tables(policy, {}) == {}
    for name in about:
        tables(policy, {key: value for key, value in about.items() if key != name})
        tables(policy, {**about, name: "garbage"})


def test_guardrails_have_their_names_and_both_levels() -> None:
    about = {
        "share": 0.05,
        "requests": 7,
        "served": 107,
        "bad": [3, 4, 0],
        "harm_log_e": [1.0, -2.0, 0.0],
        "proof_log_e": [0.0, math.log(30.0), 40.0],
        "tripped": 0,
        "pulls": [5.0, 6.0, 0.0],
        "means": [0.5, 0.25, None],
    }
    found = tables(CANARY, about)
    rails = {row["guardrail"]: row for row in found["guardrails"]["rows"]}
    assert list(rails) == ["failed", "slow, over 0.25s", "clicked"]
    assert (rails["failed"]["E of harm"], rails["failed"]["aborts at"]) == ("2.72", "60")
    assert (rails["slow, over 0.25s"]["E of the proof"], rails["clicked"]["E of the proof"]) == ("30", "10^17")
    assert rails["clicked"]["bad events"] is None
    assert "clicked counted" in found["learnt"]["rows"][0]


def test_pairs_of_rankers_have_limits() -> None:
    about = {"votes": 50, "pairs": [[0, 1]], "difference": [0.2], "low": [-0.1], "high": [0.5], "log_e": [2.0]}
    [pair] = tables(INTERLEAVE, about)["preference"]["rows"]
    assert (pair["pair"], pair["difference of credit"], pair["low"], pair["proven at"]) == ("a - b", 0.2, -0.1, "20")


def test_wealth_is_written_so_that_a_person_can_read_it() -> None:
    assert [e_value(one) for one in (0.0, math.log(999.0), 100.0, math.nan)] == ["1", "999", "10^43", "-"]


def test_a_curve_is_sampled_at_the_values_in_force() -> None:
    curves = Curves(key="w", title="", names=("a",), at_us=[0, 50], values=[(0.1,), (0.9,)], until_us=100)
    assert sampled(curves, 0, 4) == [0.1, 0.1, 0.9, 0.9]


@pytest.mark.parametrize(
    "policy", [CANARY, INTERLEAVE, THOMPSON | {"noise": "gaussian"}], ids=["canary", "list", "real"]
)
def test_a_report_has_all_sections_of_its_policy(policy: dict[str, Any]) -> None:
    declared = endpoint(policy)
    log, _ = learner_log(declared, 30, 1)
    found = as_json(report(recorded(declared, log, is_led=True)))
    assert {"log", "requests"} <= set(found)
    assert {"guardrails", "preference", "posterior"} & set(found)


@pytest.mark.parametrize("is_led", [True, False])
def test_a_report_counts_the_merged_lists_of_an_interleaving(is_led: bool) -> None:
    shown = [TracedRequest(number=number, arm="a", key=str(number)) for number in range(3)]
    log = numbered([*map(shown_list, shown), *clicks(shown), *[tick(number) for number in range(1, 9)]])
    evidence = recorded(endpoint(INTERLEAVE), log, is_led=is_led)
    assert evidence.counts["decisions"] == 3
    assert evidence.experiment.about(evidence.state).get("votes", 3) == 3
