"""Where a log is read from: where the experiment began, or the first checkpoint that is left of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from broker.base import Broker
from broker.channels import Channels
from broker.errors import Gap
from broker.messages import Record
from broker.records.endpoint import Endpoint
from broker.records.routing import LogPosition, write_checkpoint
from router.evidence.reading import read_evidence
from router.evidence.recorder import Evidence
from router.learning.fold_document import checkpoint_of
from tests.router.evidence.logs import LATER_US, SPLIT, THOMPSON, endpoint, learner_log, split_log
from tests.router.learning.traces import numbered


class Trimmed:
    """A broker with one log, whose records before `first` are gone."""

    channels = Channels()

    def __init__(self, records: Sequence[Record], first: int = 0) -> None:
        self._records = records
        self._first = first

    async def exists(self, log: str) -> bool:
        """The log is there."""
        return True

    async def end(self, log: str) -> int:
        return len(self._records)

    def read(self, log: str, start: int) -> Any:
        return Reading(self._records, start, self._first)


class Reading:
    """A reader of it."""

    def __init__(self, records: Sequence[Record], at: int, first: int) -> None:
        self._records, self._at, self._first = records, at, first

    async def read(self, limit: int) -> list[Record]:
        if self._at < self._first:
            raise Gap("log", self._at, self._first)
        found = list(self._records[self._at : self._at + min(limit, 100)])
        self._at += len(found)
        return found

    async def close(self) -> None:
        pass


async def read(declared: Endpoint, records: Sequence[Record], first: int = 0) -> Evidence:
    reported = list[tuple[int, int]]()
    broker = cast("Broker", Trimmed(records, first))
    found = await read_evidence(broker, declared, LATER_US, lambda done, total: reported.append((done, total)))
    assert reported[-1][0] == reported[-1][1]
    return found


async def test_a_whole_log_is_read_once_and_gives_the_state_of_its_learner() -> None:
    declared = endpoint(THOMPSON)
    log, fold = learner_log(declared, 120, 1, keep_every=30)
    found = await read(declared, log)
    assert len(found.decisions) == 600
    assert found.experiment.about(found.state) == fold.experiment.about(fold.state)


async def test_records_of_an_earlier_experiment_are_not_counted() -> None:
    declared, before = endpoint(THOMPSON), endpoint(THOMPSON, experiment="older")
    old, old_fold = learner_log(before, 60, 1)
    new, fold = learner_log(declared, 60, 2)
    at = LogPosition(offset=len(old), number=old_fold.progress.tick, at_us=old_fold.progress.at_us)
    fold.begin(at)
    body, headers = write_checkpoint(checkpoint_of(fold))
    records = [*old, Record(len(old), body, headers), *numbered(new[1:], len(old) + 1)]
    found = await read(declared, records)
    assert len(found.decisions) <= 300
    assert found.counts["records"] == len(new)


async def test_a_log_without_its_first_records_is_read_from_the_checkpoint_that_is_left() -> None:
    """The one of second 120 is left, but not all that it is rebuilt from: so the one of second 180."""
    declared = endpoint(THOMPSON)
    log, fold = learner_log(declared, 240, 3, keep_every=60)
    checkpoints = [record.offset for record in log if "checkpoint" in str(record.headers)]
    found = await read(declared, log, checkpoints[1] - 1)
    assert len(found.decisions) == 5 * 60
    assert found.decisions.is_known.all()
    assert found.experiment.about(found.state) == fold.experiment.about(fold.state)


async def test_a_log_that_no_learner_ever_led_keeps_its_own_time() -> None:
    found = await read(endpoint(THOMPSON), split_log(100, 4))
    assert found.phase == "fixed"
    assert len(found.decisions) == 0  # they are of another policy
    split = await read(endpoint(SPLIT), split_log(100, 4), 3)
    assert 0 < len(split.decisions) < 100
