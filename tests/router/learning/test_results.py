"""An experiment's result outlives its ledger and its log, and does not change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from broker.records.routing import ExperimentResult, read_experiment_result, read_operator_command, write_checkpoint
from router.learning.experiment import Experiment
from router.learning.fold import ExperimentFold
from router.learning.fold_document import checkpoint_of
from tests.router.learning.learner_bench import WITHIN_S, Bench, everything
from tests.router.learning.odd_records import CANARY, RANKED, order
from tests.router.learning.traces import START_US, spec_of
from tests.waiting import until


@pytest.mark.parametrize(("phase", "weights"), [("promoted", (0.0, 0.0, 1.0)), ("aborted", (0.5, 0.5, 0.0))])
async def test_a_result_is_repeated_until_it_is_known_again(
    bench: Bench, phase: str, weights: tuple[float, ...]
) -> None:
    """Ledger and log were lost, and the next learner ended between its checkpoint and its command."""
    log = bench.broker.channels.events("e")
    await bench.broker.declare(log)
    body, headers = write_checkpoint(checkpoint_of(ExperimentFold(spec_of(), CANARY)))
    await bench.broker.append(log, [body], headers)
    verdict = ExperimentResult(endpoint="e", experiment="x", number=7, phase=phase, weights=weights, at_us=START_US)
    async with bench.learning(CANARY, verdict, tick_s=0.01):
        await until(lambda: bench.published)
        await until(lambda: bench.published[-1].weights == weights)
        assert {(latest.phase, latest.weights) for latest in bench.published} == {(phase, weights)}
    orders = [record for record in await everything(bench) if read_operator_command(record)]
    assert len(orders) == 1


async def test_a_result_that_is_held_by_hand_is_repeated_once(bench: Bench) -> None:
    """The winner of a comparison whose log is lost is unknown: its weights are set, and operators can change them."""
    verdict = ExperimentResult(
        endpoint="e", experiment="x", number=7, phase="decided", weights=(0.0, 1.0, 0.0), at_us=START_US
    )
    for _ in range(2):
        bench.published.clear()
        async with bench.learning(RANKED, verdict, tick_s=0.01):
            await until(lambda: bench.published and bench.published[-1].weights == verdict.weights)
    assert len([record for record in await everything(bench) if read_operator_command(record)]) == 1


@pytest.mark.parametrize(
    ("experiment", "phase", "weights", "then"),
    [
        (CANARY, "timed out", (0.5, 0.5, 0.0), "aborted"),
        (CANARY, "starved", (0.5, 0.5, 0.0), "aborted"),
        (RANKED, "ended without a winner", (1.0, 0.0, 0.0), "ended without a winner"),
    ],
)
async def test_a_repeated_result_does_not_change(
    bench: Bench, experiment: Experiment[Any], phase: str, weights: tuple[float, ...], then: str
) -> None:
    verdict = ExperimentResult(endpoint="e", experiment="x", number=7, phase=phase, weights=weights, at_us=START_US)
    await bench.broker.declare(bench.broker.channels.declared)
    async with bench.learning(experiment, verdict, tick_s=0.01):
        await until(lambda: bench.published and bench.published[-1].phase == then)
        await until(lambda: len(bench.published) > 3)
    assert bench.published[-1].weights == weights
    assert await bench.broker.end(bench.broker.channels.declared) == 0


async def test_a_result_that_operators_change_twice_is_written_twice(bench: Bench) -> None:
    declared, weights = bench.broker.channels.declared, (0.0, 0.0, 1.0)
    verdict = ExperimentResult(
        endpoint="e", experiment="x", number=7, phase="promoted", weights=weights, at_us=START_US
    )
    await bench.broker.declare(declared)
    async with bench.learning(CANARY, verdict, tick_s=0.01), asyncio.timeout(WITHIN_S):
        await until(lambda: bench.published and bench.published[-1].phase == "promoted")
        for number, word in enumerate(("abort", "promote"), 1):
            await bench.append([order(word)])
            while await bench.broker.end(declared) < number:  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.01)
    assert await bench.broker.end(declared) == 2


async def test_a_result_is_repeated_once_though_two_tasks_would(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    append = bench.broker.append

    async def slowly(log: str, bodies: Sequence[bytes], headers: Any = None) -> Any:
        await asyncio.sleep(0.1)
        return await append(log, bodies, headers)

    monkeypatch.setattr(bench.broker, "append", slowly)
    verdict = ExperimentResult(
        endpoint="e", experiment="x", number=7, phase="decided", weights=(0.0, 1.0, 0.0), at_us=START_US
    )
    async with bench.learning(RANKED, verdict, tick_s=0.01):
        await until(lambda: bench.published and bench.published[-1].weights == verdict.weights)
    assert len([record for record in await everything(bench) if read_operator_command(record)]) == 1


async def test_a_comparison_that_is_decided_again_for_another_has_another_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared, log = bench.broker.channels.declared, bench.broker.channels.events("e")
    verdict = ExperimentResult(
        endpoint="e", experiment="x", number=7, phase="decided", weights=(0.0, 1.0, 0.0), at_us=START_US
    )
    for channel in (declared, log):
        await bench.broker.declare(channel)
    monkeypatch.setattr(type(RANKED), "is_over", lambda *_: True)
    monkeypatch.setattr(type(RANKED), "phase", lambda *_: "decided")
    async with bench.learning(RANKED, verdict, tick_s=0.01) as learner, asyncio.timeout(WITHIN_S):
        while not await bench.broker.end(declared):  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.01)
        weights = RANKED.snapshot(learner.fold.state, 0).weights
    (record,) = await bench.broker.read(declared, 0).read(10)
    written = read_experiment_result(record)
    assert written is not None
    assert (written.phase, written.weights) == ("decided", weights)
    assert weights != verdict.weights


async def test_a_comparison_that_was_decided_and_is_aborted_has_another_result(bench: Bench) -> None:
    """The weights are the same, but a learner that lost its log has to append `abort`, not `set`."""
    declared, weights = bench.broker.channels.declared, (1.0, 0.0, 0.0)
    verdict = ExperimentResult(endpoint="e", experiment="x", number=7, phase="decided", weights=weights, at_us=START_US)
    await bench.broker.declare(declared)
    async with bench.learning(RANKED, verdict, tick_s=0.01), asyncio.timeout(WITHIN_S):
        await until(lambda: bench.published and bench.published[-1].weights == weights)
        await bench.append([order("abort")])
        while not await bench.broker.end(declared):  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.01)
    (record,) = await bench.broker.read(declared, 0).read(10)
    written = read_experiment_result(record)
    assert written is not None
    assert (written.phase, written.weights) == ("ended without a winner", weights)
