"""Learners die, or are stopped and wake up: nothing is learnt twice, and nobody takes an old leader's word."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from router.learning.fold_document import canonical
from router.stats.arrays import ONE
from tests.kill.installation import until, until_it
from tests.kill.learners import Learner, Learners, is_free, ledger_of

KILLS = {"": 20, "amqp": 5, "kafka": 5}
ASKED = 4
AWAKE_S, LOOK_S = 3.0, 0.01


@pytest.mark.timeout(240)
async def test_killed_leaders_are_followed_by_others_and_each_decision_counts_once(
    broker_url: str, tmp_path: Path
) -> None:
    """P6 with real processes, over the ledger that the last one left, an older one, or the log alone."""
    chance = random.Random(1)  # noqa: S311 - moments are no secret
    kills, behind, redone = KILLS[broker_url.partition(":")[0]], 0, 0
    async with Learners(tmp_path, broker_url) as place:
        leader = place.start("data-0")
        await place.leads(leader)
        next_one = place.start("data-0")
        for number in range(kills):
            await place.leads(leader)
            await place.stand_by(next_one)
            flow = asyncio.create_task(_flow(place))
            await asyncio.sleep(chance.random() * 0.3)
            await place.kill(leader)
            committed = ledger_of(leader.folder)[1]
            behind += committed < await place.end_of_log()
            redone += ledger_of(next_one.folder)[1] < committed
            await place.vacate()
            await flow
            folder = ("data-0", f"data-{number + 1}", next_one.folder.name)[number % 3]
            leader, next_one = next_one, place.start(folder)
        await place.leads(leader)
        await until_it(lambda: _is_at_rest(place, leader))
        await place.end(leader)
        kept = await place.kept(leader)
        whole = await place.whole(kept.progress.offset)
    print(f"{kills} killed, {behind} of them behind the log, {redone} went on from less than was known")  # noqa: T201
    print(f"{place.sent} decisions, {kept.progress.offset} records, {len(place.taken)} snapshots")  # noqa: T201 - as above
    assert behind > kills // 4
    assert redone
    assert canonical(kept) == canonical(whole)
    assert int(kept.state.pulls.sum()) == place.sent * ONE
    assert all(term == newest for term, newest in place.taken)


async def _flow(place: Learners) -> None:
    """Send requests and feedback for about a third of a second."""
    for _ in range(20):
        await place.ask(ASKED)
        await asyncio.sleep(0.01)


async def _is_at_rest(place: Learners, leader: Learner) -> bool:
    """Tell whether the leader has counted all there is, and says no more."""
    said = place.view.snapshot_of("e")
    counted = said is not None and round(sum(said.about["pulls"])) >= place.sent
    end = await place.end_of_log()
    if not counted or ledger_of(leader.folder)[1] != end:
        return False
    await asyncio.sleep(0.3)
    return await place.end_of_log() == end


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("broker_url", "folders"),
    [  # whose folder it is has nothing to do with the broker
        ("sqlite", ("data", "data")),
        ("sqlite", ("data", "other")),
        ("rabbitmq", ("data", "data")),
        ("kafka", ("data", "data")),
    ],
    indirect=["broker_url"],
    ids=["sqlite-one-folder", "sqlite-two-folders", "rabbitmq", "kafka"],
)
async def test_a_leader_that_was_stopped_and_wakes_up_is_not_listened_to(
    broker_url: str, folders: tuple[str, str], tmp_path: Path
) -> None:
    async with Learners(tmp_path, broker_url) as place:
        old = place.start(folders[0])
        old_term = await place.leads(old)
        new = place.start(folders[1])
        await place.stand_by(new)
        await _flow(place)
        await _stop(place, old)
        await place.ask(ASKED)
        await until(lambda: bool(new.claims))
        new_term = await place.leads(new)
        assert new_term > old_term
        await place.ask(ASKED)
        terms: set[int] = set()
        said = len(place.said)
        old.process.send_signal(signal.SIGCONT)
        for look in range(round(AWAKE_S / LOOK_S)):
            terms.add(ledger_of(new.folder)[0])
            await asyncio.sleep(LOOK_S)
            if look % 50 == 0:
                await place.ask(ASKED)
        await until(lambda: not old.leads_by_its_log())
        assert new.leads_by_its_log()
        again = place.said[said:].count(old_term)
        print(f"the woken leader said {again} snapshots of claim {old_term}; {len(place.taken)} were taken")  # noqa: T201
        assert terms == {new_term}  # it has not written the ledger
        assert place.view.learned.term == new_term
        assert all(term == newest for term, newest in place.taken)
        assert old.claims == [old_term]
        await until_it(lambda: _is_at_rest(place, new))
        await place.end(new)
        kept = await place.kept(new)
        assert canonical(kept) == canonical(await place.whole(kept.progress.offset))
        assert int(kept.state.pulls.sum()) == place.sent * ONE


async def _stop(place: Learners, learner: Learner) -> None:
    """Stop a process where it holds no lock of a file: who waits for that one would wait for its end."""
    files = (place.folder / "broker.db", learner.folder / "learner.db")
    while True:
        learner.process.send_signal(signal.SIGSTOP)
        if all(map(is_free, files)):
            return
        learner.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.003)
