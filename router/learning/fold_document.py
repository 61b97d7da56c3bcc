"""The state of a fold as JSON: for the ledger, for checkpoints, and as canonical bytes for comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson

from broker.records.routing import LearnerCheckpoint, LogPosition
from router.learning.fold import ExperimentFold
from router.learning.joins import write_join
from router.learning.log_progress import AHEAD_US
from router.learning.tick_positions import read_positions
from router.policies.snapshot import WeightSnapshot
from router.stats.packing import packed, unpacked


def document_of(fold: ExperimentFold[Any]) -> dict[str, Any]:
    """Return the small part of a fold's state: everything but joins, seen uids and counted keys."""
    progress = fold.progress
    return {
        "state": packed(fold.state),
        "paused": fold.hold.is_paused,
        "set": list(fold.hold.weights),
        "stale": fold.is_stale,
        "ordered": fold.hold.is_pending,
        "counts": dict(sorted(progress.counts.items())),
        "began_us": progress.began_us,
        "published": [[one.number, list(one.weights), at_us] for one, at_us in fold.published.entries],
        "models": fold.snapshot.models,
        "over": fold.is_over,
        "places": progress.written_positions(),
        "counts_from": progress.counts_from,
        "newest_us": progress.newest_us,
    }


def restore(fold: ExperimentFold[Any], document: Mapping[str, Any], at: LogPosition) -> None:
    """Restore a fold from a document that was written at a position; raises ValueError for one of another form."""
    progress, hold = fold.progress, fold.hold
    try:
        fold.state = unpacked(document["state"], fold.experiment.start())
        fold.begin(at)
        progress.began_us, progress.newest_us = document["began_us"], document["newest_us"]
        progress.counts_from = max(at.offset, document["counts_from"])  # its writer may have been rebuilding joins
        progress.counts = Counter(dict(document["counts"]))
        hold.is_paused, hold.weights, hold.is_pending = document["paused"], tuple(document["set"]), document["ordered"]
        fold.is_stale, fold.is_over = document["stale"], document["over"]
        entries = [(WeightSnapshot(number, tuple(weights)), at) for number, weights, at in document["published"]]
        last, at_us = entries[-1]
        entries[-1] = (WeightSnapshot(last.number, last.weights, document["models"]), at_us)
        fold.published.entries = entries
        positions = read_positions(document["places"])
    except (KeyError, TypeError, IndexError, AttributeError) as exc:
        raise ValueError(f"this is no state of {fold.experiment.policy}: {exc}") from exc
    progress.set_positions(positions)


def checkpoint_of(fold: ExperimentFold[Any]) -> LearnerCheckpoint:
    """Return the checkpoint from which a successor without a ledger rebuilds this fold."""
    return LearnerCheckpoint(
        experiment=fold.spec.experiment,
        at=fold.progress.position,
        rebuild=fold.progress.rebuild_position(),
        number=fold.snapshot.number,
        weights=fold.snapshot.weights,
        state={**document_of(fold), "keys": fold.keys.written()},
    )


def resume(fold: ExperimentFold[Any], checkpoint: LearnerCheckpoint) -> None:
    """Restore a fold from a checkpoint; raises ValueError for one of another form.

    The next records to fold are those from `checkpoint.rebuild` on. Statistics change again after `checkpoint.at`.
    """
    rebuild, progress = checkpoint.rebuild, fold.progress
    restore(fold, checkpoint.state, rebuild)
    progress.set_positions([(rebuild, rebuild.at_us)])
    progress.newest_us = rebuild.at_us - AHEAD_US  # requests that were newer then are read again
    fold.keys.read(checkpoint.state.get("keys"))
    progress.counts_from = max(checkpoint.at.offset, progress.counts_from)


def canonical(fold: ExperimentFold[Any]) -> bytes:
    """Return the state of a fold as bytes: equal for equal states, however a fold came to them."""
    progress, oldest_us = fold.progress, fold.progress.oldest_us
    state = {
        "tick": progress.tick,
        "at_us": progress.at_us,
        "state": packed(fold.state),
        "paused": fold.hold.is_paused,
        "set": list(fold.hold.weights),
        "stale": fold.is_stale,
        "ordered": fold.hold.is_pending,
        "over": fold.is_over,
        "began_us": progress.began_us,
        "published": [[one.number, list(one.weights)] for one, _ in fold.published.entries],
        "models": fold.snapshot.models,
        "joins": [[uid.hex(), *write_join(join)[1:]] for uid, join in sorted(fold.joins.by_uid.items())],
        "seen": sorted(uid.hex() for uid, accepted_us in fold.joins.seen.items() if accepted_us >= oldest_us),
        "keys": fold.keys.written(),
    }
    return orjson.dumps(state, option=orjson.OPT_SORT_KEYS)
