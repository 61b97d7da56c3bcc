"""The worker runs jobs in a thread of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

from processors.worker import Worker

WITHIN_S = 10.0
HANGS = """
import asyncio, time
from processors.worker import Worker

async def main():
    worker = Worker(time.sleep, print, name="hangs")
    worker.put(3600)
    await asyncio.sleep(0.1)

asyncio.run(main())
"""


async def test_jobs_run_in_order_and_their_results_arrive_on_the_event_loop() -> None:
    results, all_done = list[tuple[int, int, bool]](), asyncio.Event()

    def done(job: int, result: int) -> None:
        results.append((job, result, threading.current_thread() is threading.main_thread()))
        if len(results) == 100:
            all_done.set()

    worker = Worker[int, int](lambda job: job * job, done, name="squares")
    for number in range(100):
        worker.put(number)
    async with asyncio.timeout(WITHIN_S):
        await all_done.wait()
    worker.close()
    assert results == [(number, number * number, True) for number in range(100)]


async def test_a_closed_worker_finishes_the_running_job_and_drops_the_others() -> None:
    began, go_on, results = threading.Event(), threading.Event(), list[str]()

    def work(job: str) -> str:
        began.set()
        go_on.wait(WITHIN_S)
        return job

    worker = Worker[str, str](work, lambda job, _: results.append(job), name="closing")
    worker.put("runs")
    worker.put("waits")
    await asyncio.to_thread(began.wait, WITHIN_S)
    worker.close()
    go_on.set()
    async with asyncio.timeout(WITHIN_S):
        while any(thread.name == "closing" for thread in threading.enumerate()):  # noqa: ASYNC110 - a thread's end
            await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    assert results == ["runs"]


async def test_an_exception_of_the_work_is_raised_on_the_event_loop() -> None:
    raised: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.set_result(context["exception"]))
    worker = Worker[int, float](lambda job: 1 / job, lambda job, result: None, name="divides")
    worker.put(0)
    async with asyncio.timeout(WITHIN_S):
        assert isinstance(await raised, ZeroDivisionError)


def test_a_job_that_hangs_keeps_no_process_alive() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], timeout=WITHIN_S, check=False)
    assert done.returncode == 0
