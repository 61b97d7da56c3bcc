"""A request that killed its replicas is buried; after the model is repaired, a replay answers it."""

from __future__ import annotations

import asyncio

from tests.deploy.running import millrace
from tests.kill.client import Client
from tests.kill.installation import Installation
from tests.kill.models import POISON, POISONED, STEADY
from tests.kill.report import report
from tests.kill.rows import read_rows
from tests.waiting import until

REQUESTS = 50


async def test_a_replayed_request_is_answered_with_its_old_id_after_the_model_is_repaired(
    installation: Installation,
) -> None:
    await installation.serve("poisoned", POISONED, retry={"attempts": 2})
    dead_queue = installation.channels.dead(installation.channels.inputs("poisoned", 1))
    async with Client(installation.broker, "poisoned") as client:
        await client.send([*range(REQUESTS - 1), POISON])
        await client.all_answered()
        await until(lambda: _holds(installation, dead_queue))
        broken = await installation.replica()
        (installation.folder / "models/poisoned/1/model.py").write_text(STEADY, "utf-8")
        await installation.replica(but=broken.pid)
        words = ("dead", "replay", "poisoned@1", "--reason", "attempts", "--yes")
        done = await asyncio.to_thread(millrace, *words, folder=installation.folder)
        assert (done.returncode, "replayed 1, skipped 0, refused 0" in done.stdout) == (0, True), done.stderr
        await until(lambda: len(client.answers[POISON]) == 2)
        ids = client.message_ids()
        rows = await read_rows(installation.broker, "poisoned", ids)
    report(client, installation.log("processors").count("exit status 13"), rows, "(with a death)")
    first, second = client.answers[POISON]
    assert (first.status, second.status, second.value) == ("failed", "ok", float(POISON))
    assert first.message_id == second.message_id
    assert (client.lost, client.twice, len(client.answers)) == (0, 0, REQUESTS)
    assert not await _holds(installation, dead_queue)


async def _holds(installation: Installation, queue: str) -> bool:
    return (await installation.broker.depth(queue)).messages > 0
