"""Learners that are killed, or stopped and continued: each decision counts once, and views ignore an old leader."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from router.learning.fold_document import canonical
from router.stats.arrays import ONE
from tests.kill.learners import Learner, Learners, is_free, ledger_of
from tests.waiting import until

KILLS = {"": 20, "amqp": 5, "kafka": 5}
ASKED = 4
AWAKE_S, LOOK_S = 3.0, 0.01


@pytest.mark.timeout(240)
async def test_killed_leaders_are_followed_by_others_and_each_decision_counts_once(
    broker_url: str, tmp_path: Path
) -> None:
    """Promise P6 with real processes; each learner starts from the last ledger, an older one, or the log alone."""
    chance = random.Random(1)  # noqa: S311 - not for secrets
    kills, behind, redone = KILLS[broker_url.partition(":")[0]], 0, 0
    async with Learners(tmp_path, broker_url) as learners:
        leader = learners.start("data-0")
        await learners.wait_until_leading(leader)
        next_one = learners.start("data-0")
        for number in range(kills):
            await learners.wait_until_leading(leader)
            await learners.wait_until_announced(next_one)
            flow = asyncio.create_task(_flow(learners))
            await asyncio.sleep(chance.random() * 0.3)
            await learners.kill(leader)
            committed = ledger_of(leader.folder)[1]
            behind += committed < await learners.end_of_log()
            redone += ledger_of(next_one.folder)[1] < committed
            await learners.claim_for_absent_learner()
            await flow
            folder = ("data-0", f"data-{number + 1}", next_one.folder.name)[number % 3]
            leader, next_one = next_one, learners.start(folder)
        await learners.wait_until_leading(leader)
        await until(lambda: _is_at_rest(learners, leader))
        await learners.end(leader)
        kept = await learners.load_fold(leader)
        whole = await learners.fold_log(kept.progress.offset)
    print(f"{kills} killed, {behind} of them behind the log, {redone} went on from less than was known")  # noqa: T201
    print(f"{learners.sent} decisions, {kept.progress.offset} records, {len(learners.accepted)} snapshots")  # noqa: T201 - as above
    assert behind > kills // 4
    assert redone
    assert canonical(kept) == canonical(whole)
    assert int(kept.state.pulls.sum()) == learners.sent * ONE
    assert all(term == newest for term, newest in learners.accepted)


async def _flow(learners: Learners) -> None:
    """Send requests and feedback for about a third of a second."""
    for _ in range(20):
        await learners.send_requests(ASKED)
        await asyncio.sleep(0.01)


async def _is_at_rest(learners: Learners, leader: Learner) -> bool:
    """Return True if the leader has counted all decisions and appends no more records."""
    snapshot = learners.view.snapshot_of("e")
    counted = snapshot is not None and round(sum(snapshot.about["pulls"])) >= learners.sent
    end = await learners.end_of_log()
    if not counted or ledger_of(leader.folder)[1] != end:
        return False
    await asyncio.sleep(0.3)
    return await learners.end_of_log() == end


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("broker_url", "folders"),
    [  # whether the learners share a folder does not depend on the broker
        ("sqlite", ("data", "data")),
        ("sqlite", ("data", "other")),
        ("rabbitmq", ("data", "data")),
        ("kafka", ("data", "data")),
    ],
    indirect=["broker_url"],
    ids=["sqlite-one-folder", "sqlite-two-folders", "rabbitmq", "kafka"],
)
async def test_snapshots_of_a_leader_that_was_stopped_and_continued_are_ignored(
    broker_url: str, folders: tuple[str, str], tmp_path: Path
) -> None:
    async with Learners(tmp_path, broker_url) as learners:
        old = learners.start(folders[0])
        old_term = await learners.wait_until_leading(old)
        new = learners.start(folders[1])
        await learners.wait_until_announced(new)
        await _flow(learners)
        await _stop(learners, old)
        await learners.send_requests(ASKED)
        await until(lambda: bool(new.claims))
        new_term = await learners.wait_until_leading(new)
        assert new_term > old_term
        await learners.send_requests(ASKED)
        terms: set[int] = set()
        before = len(learners.snapshot_terms)
        old.process.send_signal(signal.SIGCONT)
        for look in range(round(AWAKE_S / LOOK_S)):
            terms.add(ledger_of(new.folder)[0])
            await asyncio.sleep(LOOK_S)
            if look % 50 == 0:
                await learners.send_requests(ASKED)
        await until(lambda: not old.leads_by_its_log())
        assert new.leads_by_its_log()
        late = learners.snapshot_terms[before:].count(old_term)
        print(f"the old leader published {late} snapshots of claim {old_term}; {len(learners.accepted)} were accepted")  # noqa: T201
        assert terms == {new_term}  # the old leader has not written to the ledger
        assert learners.view.learned.term == new_term
        assert all(term == newest for term, newest in learners.accepted)
        assert old.claims == [old_term]
        await until(lambda: _is_at_rest(learners, new))
        await learners.end(new)
        kept = await learners.load_fold(new)
        assert canonical(kept) == canonical(await learners.fold_log(kept.progress.offset))
        assert int(kept.state.pulls.sum()) == learners.sent * ONE


async def _stop(learners: Learners, learner: Learner) -> None:
    """Stop a process at a moment when it holds no file lock: others would wait for the lock until it continues."""
    files = (learners.folder / "broker.db", learner.folder / "learner.db")
    while True:
        learner.process.send_signal(signal.SIGSTOP)
        if all(map(is_free, files)):
            return
        learner.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.003)
