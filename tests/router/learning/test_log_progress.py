"""The log's clock stays usable after a learner with a wrong clock."""

from __future__ import annotations

import pytest

from broker.protocol.header import Status
from router.learning.fold import ExperimentFold
from router.learning.fold_document import canonical, checkpoint_of, resume
from router.learning.log_progress import AHEAD_US
from tests.router.learning.fold_logs import THOMPSON
from tests.router.learning.odd_records import CANARY
from tests.router.learning.traces import START_US, TracedRequest, feedback, folded, numbered, rows, spec_of, tick

HOUR_US = 3_600_000_000
WRONG = pytest.mark.parametrize("at_us", [START_US + HOUR_US, (1 << 62) - 1])


def shown(number: int, second: float = 0.0) -> TracedRequest:
    return TracedRequest(number=number, arm="a", accepted_us=START_US + int(second * 1e6))


@WRONG
def test_a_tick_from_the_future_does_not_end_learning(at_us: int) -> None:
    later = [shown(number, number) for number in range(2, 12)]
    log = [rows([shown(1)]), tick(1, at_us)]
    for number, one in enumerate(later, 2):
        log += [rows([one]), feedback(one, one.accepted_us), tick(number, at_us)]
    fold = folded(THOMPSON, numbered([*log, *[tick(number, at_us) for number in range(12, 40)]]))
    counts = fold.progress.counts
    assert (counts["late"], counts["decisions"], counts["rewards"]) == (
        0,
        11,
        11,
    )


@WRONG
def test_a_canary_that_fails_is_aborted_by_a_learner_from_the_future(at_us: int) -> None:
    requests = [
        TracedRequest(
            number=n,
            arm="c" if n % 4 == 0 else "a",
            policy="canary",
            propensity=0.01,
            status=Status.FAILED if n % 4 == 0 else Status.OK,
        )
        for n in range(400)
    ]
    before = TracedRequest(number=1000, arm="a", policy="canary")
    fold = folded(CANARY, numbered([rows([before]), tick(1, at_us), rows(requests), tick(2, at_us)]))
    assert CANARY.phase(fold.state) == "aborted"


def test_no_request_of_the_future_moves_the_clock_alone() -> None:
    ahead = TracedRequest(number=1, arm="a", accepted_us=START_US + HOUR_US)
    fold = folded(THOMPSON, numbered([rows([ahead]), tick(1), rows([shown(2)])]))
    assert fold.progress.at_us == START_US + 1_000_000
    assert (fold.progress.counts["late"], fold.progress.counts["decisions"]) == (0, 2)


def test_the_clock_stands_half_a_minute_behind_the_newest_request() -> None:
    fold = folded(THOMPSON, numbered([rows([shown(1, 5.0), shown(2)]), tick(1, START_US + HOUR_US)]))
    assert fold.progress.at_us == START_US + 5_000_000 + AHEAD_US


def test_a_fold_from_a_checkpoint_knows_the_requests_of_a_gateway_whose_clock_is_ahead() -> None:
    """Their uids are kept for longer than by the learner's clock, so they have to be read again."""
    ahead, later = shown(2, 50.0), shown(3, 80.0)
    begin = [rows([shown(1)]), tick(1, START_US), rows([ahead]), tick(2, START_US + 1_000_000), rows([later])]
    log = numbered([*begin, *[tick(number, START_US + 70_000_000) for number in range(3, 60)], rows([ahead])])
    first = folded(THOMPSON, log[:-1])
    checkpoint = checkpoint_of(first)
    second = ExperimentFold(spec_of(), THOMPSON)
    resume(second, checkpoint)
    for record in log[checkpoint.rebuild.offset :]:
        second.apply(record)
    assert 0 < checkpoint.rebuild.offset < 3
    assert canonical(second) == canonical(folded(THOMPSON, log))
    assert second.progress.counts["duplicate"] == first.progress.counts["duplicate"] + 1
