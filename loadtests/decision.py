"""Measures decisions, compared with a bare draw; changing snapshots under load; and the rate of learning.

    python -m loadtests.decision [--seconds 10] [--json PATH]

It measures in alternating blocks each policy's decision as a gateway makes it (the view's router and mask, then the
plan) and a bare draw (keyed hash and bisect). It sends requests to a gateway on the embedded broker that gets a new
snapshot every 20 ms. It folds feedback on one core, alone and with the ledger's commits. The gates limit CPU time,
because other programs may use the computer too. The exit status is 1 if a request was lost or a gate was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import uvloop

from broker.base import Broker
from broker.messages import Record
from broker.protocol.header import Request, Route, Status
from broker.protocol.ids import new_uid, now_us
from broker.records.declared import endpoint_declared
from broker.records.endpoint import Endpoint, read_endpoint
from broker.records.events import EndedRequests, read_event, write_event
from broker.records.feedback import Feedback, write_feedback
from broker.records.routing import SnapshotRecord, experiment_of, write_claim, write_snapshot
from broker.records.status import Announcement, write_announcement
from deploy.hosts import free_port
from deploy.supervision.supervisor import wait_until_ready
from deploy.wiring import Installation
from loadtests.front import FrontLoad, closed_loop
from loadtests.harness import processes
from loadtests.report import report
from router.learning.declared import read_experiment
from router.learning.experiment import spec_of
from router.learning.fold import ExperimentFold
from router.learning.ledger import Ledger
from router.policies.learning import one_run
from router.state.view import View
from router.stats.packing import packed

GATE_US = 5.0
GATE_FOLDS = 20_000
UIDS = 2000
BLOCKS = 9
FOLD_BLOCKS = 5
WARM_UP = 2
CONNECTIONS = 32
REFRESH_S = 0.02
START_WITHIN_S = 90.0
ROWS_WITHIN_S = 30.0
DECISIONS = 40_000
ROWS_AN_EVENT = 100
COMMIT_EVERY = 1000  # the number of records that a learner reads at once

ARMS = {"a": "m@1", "b": "m@2", "c": "m@3"}
WEIGHTS = (0.6, 0.3, 0.1)
LEARNT: Mapping[str, Any] = {"feedback": {"rewards": {"clicked": {"default": 0}}}, "key": "parameters.user"}
LINEAR: Mapping[str, Any] = {"reward": "clicked", "floor": 0.01, "features": [f"x{number}" for number in range(8)]}
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "split": {"split": {"a": 60, "b": 30, "c": 10}},
    "sticky": {"split": {"a": 60, "b": 30, "c": 10}, "sticky": True},
    "thompson": {"bandit": "thompson", "reward": "clicked"},
    "canary": {"canary": "c", "stable": {"bandit": "thompson", "reward": "clicked", "arms": ["a", "b"]}},
    "shadow": {"shadow": "b", "serve": "a", "sample": "20%"},
    "interleave": {"interleave": ["a", "b"], "credit": "clicked"},
    "linucb": {"bandit": "linucb", **LINEAR},
    "lints": {"bandit": "lints", **LINEAR},
}
CONFIG = """\
name: "hello"
backend: "python"
max_batch_size: 64
version_policy { all {} }
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
MODEL = """\
class Model:
    def infer(self, inputs):
        return {"y": inputs["x"]}
"""
BODY = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}'


@dataclass(frozen=True, slots=True)
class CallTime:
    """Microseconds for each call, wall-clock and CPU time: the median over blocks."""

    wall_us: float
    cpu_us: float


def decisions() -> dict[str, CallTime]:
    """Time the bare draw and each policy's decision, in alternating blocks."""
    uids = [new_uid(now_us()) for _ in range(UIDS)]
    calls: dict[str, Callable[[bytes], Any]] = {"bare": _bare()}
    calls |= {name: _decide(name) for name in POLICIES}
    blocks: dict[str, list[tuple[int, int]]] = {name: [] for name in calls}
    for _ in range(WARM_UP + BLOCKS):
        for name, call in calls.items():
            blocks[name].append(_block(call, uids))
    return {
        name: CallTime(*(median(block[which] for block in timed[WARM_UP:]) / UIDS / 1000 for which in (0, 1)))
        for name, timed in blocks.items()
    }


def _block(call: Callable[[bytes], Any], uids: list[bytes]) -> tuple[int, int]:
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    for uid in uids:
        call(uid)
    return time.perf_counter_ns() - wall, time.process_time_ns() - cpu


def _bare() -> Callable[[bytes], int]:
    sums = [0.6, 0.9, 1.0]

    def draw(uid: bytes) -> int:
        digest = blake2b(b"e\0" + uid, key=b"secret", digest_size=8).digest()
        return bisect_right(sums, (int.from_bytes(digest, "big") >> 11) * 2.0**-53)

    return draw


def _decide(name: str) -> Callable[[bytes], Any]:
    """Return a gateway's decision function, with one endpoint, three ready replicas and a snapshot in its view."""
    endpoint = read_endpoint({"endpoint": "e", "arms": ARMS, "policy": POLICIES[name], **LEARNT}, source="decision")
    view = View(b"secret")
    view.fold_declared(Record(0, endpoint_declared(endpoint, "decision"), {}))
    view.fold_declared(Record(1, write_claim("decision"), {}))
    for version in (1, 2, 3):
        announcement = Announcement(
            instance=f"r{version}", part="replica", state="ready", at_us=now_us(), model="m", version=version
        )
        view.fold_status(Record(version, write_announcement(announcement), {}))
    if name in ("thompson", "canary", "linucb", "lints"):
        view.fold_status(Record(4, write_snapshot(_snapshot(endpoint, 1, 7, WEIGHTS, _models(endpoint))), {}))
    if "features" in POLICIES[name]:
        vectors = cycle([[1.0, *row] for row in np.random.default_rng(1).standard_normal((UIDS, 8)).tolist()])

        def by_features(uid: bytes) -> Any:
            router, mask = view.resolve("e")
            return router.plan(uid, mask, vector=next(vectors))

        return by_features

    def decide(uid: bytes) -> Any:
        router, mask = view.resolve("e")
        return router.plan(uid, mask)

    return decide


def _snapshot(
    endpoint: Endpoint, term: int, number: int, weights: tuple[float, ...], models: Any = None
) -> SnapshotRecord:
    return SnapshotRecord(
        endpoint=endpoint.endpoint,
        experiment=experiment_of(endpoint),
        term=term,
        number=number,
        weights=weights,
        models=models,
        at_us=now_us(),
    )


def _models(endpoint: Endpoint) -> Any:
    """The packed models of a linear policy after 300 rewards; None for policies without features."""
    experiment: Any = read_experiment(endpoint)
    if experiment is None or experiment.policy not in ("linucb", "lints"):
        return None
    random = np.random.default_rng(2)
    seen = one_run(list(random.integers(3, size=300)), list(random.random(300)), [1 / 3] * 300)
    features = random.standard_normal((300, experiment.learning.dimensions))
    return packed(experiment.learning.fold(experiment.start(), seen, features))


async def refreshes(seconds: float) -> dict[str, int]:
    """Keep a gateway busy while its snapshot changes; returns the numbers of requests, answers and snapshots."""
    with tempfile.TemporaryDirectory(prefix="millrace-decision-") as name:
        folder, port = Path(name), free_port()
        _write_model(folder / "models/hello")
        (folder / "millrace.yaml").write_text(f"gateway: {{http_port: {port}}}\nmetrics: {{port: 0}}\n")
        installation = Installation.at(folder / "millrace.yaml")
        with processes([installation.part_command(part) for part in ("gateway", "processors")], folder / "log"):
            async with installation.broker() as broker:
                return await _refreshed(broker, port, seconds)


async def _refreshed(broker: Broker, port: int, seconds: float) -> dict[str, int]:
    document = {"endpoint": "e", "arms": {"a": "hello@1", "b": "hello@2"}, "policy": POLICIES["thompson"]}
    endpoint = read_endpoint({**document, "feedback": LEARNT["feedback"]}, source="decision")
    channels = broker.channels
    for log in (channels.declared, channels.status, channels.events("e")):
        await broker.declare(log)
    await broker.append(channels.declared, [endpoint_declared(endpoint, "decision")])
    await wait_until_ready(port, "127.0.0.1", START_WITHIN_S, lambda: True)
    async with asyncio.timeout(START_WITHIN_S):
        while not (await _load(port, 0.5)).latencies_s:
            pass  # the model loads
    term = await broker.end(channels.declared)
    await broker.append(channels.declared, [write_claim("decision")])
    numbers: list[int] = []
    publishing = asyncio.create_task(_publish(broker, endpoint, term, numbers), name="snapshots")
    load = await _load(port, seconds)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    answered = len(load.latencies_s)
    return {
        "sent": answered + load.errors,
        "answered": answered,
        "per_s": round(answered / load.took_s),
        "published": len(numbers),
        "drawn_from": await _drawn_from(broker, answered),
    }


async def _publish(broker: Broker, endpoint: Endpoint, term: int, numbers: list[int]) -> None:
    """Publish a new snapshot every 20 ms."""
    while True:
        share = len(numbers) % 9 / 10 + 0.1
        snapshot = _snapshot(endpoint, term, len(numbers) + 1, (share, 1 - share))
        await broker.append(broker.channels.status, [write_snapshot(snapshot)])
        numbers.append(snapshot.number)
        await asyncio.sleep(REFRESH_S)


async def _load(port: int, seconds: float) -> FrontLoad:
    return await closed_loop(port, "/v2/models/e/infer", BODY, None, connections=CONNECTIONS, seconds=seconds)


async def _drawn_from(broker: Broker, answered: int) -> int:
    """Count the snapshots in the rows of all answered requests."""
    reader, snapshots, seen = broker.read(broker.channels.events("e"), 0), set[int](), 0
    async with asyncio.timeout(ROWS_WITHIN_S):
        while seen < answered:
            for record in await reader.read(1000):
                rows = read_event(record)
                if rows is not None:
                    snapshots.update(rows.column("snapshot").to_pylist())
                    seen += rows.num_rows
    await reader.close()
    return len(snapshots)


def _write_model(folder: Path) -> None:
    for version in (1, 2):
        (folder / str(version)).mkdir(parents=True)
        (folder / str(version) / "model.py").write_text(MODEL)
    (folder / "config.pbtxt").write_text(CONFIG)


async def folds() -> dict[str, CallTime]:
    """Time the fold of feedback for open decisions, alone and with a commit after every COMMIT_EVERY records."""
    document = {"endpoint": "e", "arms": ARMS, "policy": POLICIES["thompson"], **LEARNT}
    endpoint = read_endpoint(document, source="decision")
    events, feedback = _events(), _feedback()
    found: dict[str, list[CallTime]] = {"alone": [], "with commits": []}
    with tempfile.TemporaryDirectory(prefix="millrace-decision-") as name:
        for block in range(WARM_UP + FOLD_BLOCKS):
            for how, timed in found.items():
                fold = _fold_decisions(endpoint, events)
                if how == "alone":
                    timed.append(await _fold_feedback(fold, feedback, _do_nothing))
                    continue
                ledger = Ledger(Path(name) / f"{block}.db")
                await ledger.open()
                await ledger.lead(1)
                await ledger.save(fold, whole=True)
                timed.append(await _fold_feedback(fold, feedback, partial(ledger.save, fold)))
                await ledger.close()
    return {
        how: CallTime(median(one.wall_us for one in timed[WARM_UP:]), median(one.cpu_us for one in timed[WARM_UP:]))
        for how, timed in found.items()
    }


def _fold_decisions(endpoint: Endpoint, events: list[Record]) -> ExperimentFold[Any]:
    """Fold decisions without feedback."""
    experiment = read_experiment(endpoint)
    if experiment is None:
        raise ValueError("this policy learns nothing")
    fold: ExperimentFold[Any] = ExperimentFold(spec_of(endpoint), experiment)
    for record in events:
        fold.apply(record)
    return fold


async def _fold_feedback(
    fold: ExperimentFold[Any], feedback: list[Record], commit: Callable[[], Awaitable[None]]
) -> CallTime:
    wall, cpu = time.perf_counter(), time.process_time()
    for begin in range(0, len(feedback), COMMIT_EVERY):
        for record in feedback[begin : begin + COMMIT_EVERY]:
            fold.apply(record)
        await commit()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if fold.progress.counts["joined"] != len(feedback):
        raise ValueError(f"not all of {len(feedback)} pieces of feedback were joined: {dict(fold.progress.counts)}")
    return CallTime(wall / len(feedback) * 1e6, cpu / len(feedback) * 1e6)


async def _do_nothing() -> None:
    return


def _uid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _events() -> list[Record]:
    """The rows of DECISIONS decisions."""
    route = Route(endpoint="e", arm="a", model="m", version=1, policy="thompson", snapshot=0, mask=7)
    records = []
    for number, begin in enumerate(range(0, DECISIONS, ROWS_AN_EVENT)):
        uids = map(_uid, range(begin, begin + ROWS_AN_EVENT))
        asked = [Request(route=route, uid=uid, accepted_us=now_us(), propensity=1 / 3) for uid in uids]
        ended = EndedRequests(
            requests=asked,
            rows=[1] * len(asked),
            taken_us=[now_us()] * len(asked),
            status=Status.OK,
            published_us=now_us(),
        )
        records.append(Record(number, *write_event([ended], [], [], source="/decision")))
    return records


def _feedback() -> list[Record]:
    begin = DECISIONS // ROWS_AN_EVENT
    return [
        Record(begin + number, *write_feedback(Feedback(uid=_uid(number), values={"clicked": 1.0}, at_us=now_us())))
        for number in range(DECISIONS)
    ]


def main() -> None:
    """Parse the options, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of the load with changing snapshots")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    drawn, folded = decisions(), uvloop.run(folds())
    fresh = uvloop.run(refreshes(options.seconds))
    held = all(timed.cpu_us <= GATE_US for name, timed in drawn.items() if name != "bare")
    held &= all(1e6 / timed.cpu_us >= GATE_FOLDS for timed in folded.values())
    rows = [(f"decision: {name}", _shown(timed, drawn["bare"])) for name, timed in drawn.items()]
    rows += [(f"feedback folded, {how}", _rate(timed)) for how, timed in folded.items()]
    rows.append(("snapshots under load", f"{fresh['published']} published, rows of {fresh['drawn_from']}"))
    rows.append(("requests meanwhile", f"{fresh['answered']:,} of {fresh['sent']:,} answered, {fresh['per_s']:,}/s"))
    figures = {
        "decisions": {name: asdict(timed) for name, timed in drawn.items()},
        "folds": {how: asdict(timed) for how, timed in folded.items()},
        "refreshes": fresh,
    }
    report("decisions, snapshots and feedback", rows, figures, options.json)
    sys.exit(0 if held and fresh["sent"] == fresh["answered"] else 1)


def _shown(timed: CallTime, bare: CallTime) -> str:
    shown = f"{timed.wall_us:6.2f} µs ({timed.cpu_us:.2f} of CPU)"
    if timed is bare:
        return shown
    verdict = "ok" if timed.cpu_us <= GATE_US else "over"
    return f"{shown}, {timed.cpu_us / bare.cpu_us:.1f} x bare; gate {GATE_US:g}: {verdict}"


def _rate(timed: CallTime) -> str:
    verdict = "ok" if 1e6 / timed.cpu_us >= GATE_FOLDS else "missed"
    shown = f"{1e6 / timed.wall_us:,.0f}/s ({1e6 / timed.cpu_us:,.0f}/s of CPU)"
    return f"{shown}; gate {GATE_FOLDS:,}: {verdict}"


if __name__ == "__main__":
    main()
