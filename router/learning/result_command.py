"""The order that brings an experiment to where a verdict says that it ended."""

from __future__ import annotations

from collections.abc import Mapping

from broker.protocol.ids import now_us
from broker.records.routing import ExperimentResult, OperatorCommand, Word
from router.learning.fold import ExperimentSpec

ENDS: Mapping[str, Word] = {
    "promoted": "promote",
    "aborted": "abort",
    "timed out": "abort",
    "starved": "abort",
    "ended without a winner": "abort",
}


def sentence(verdict: ExperimentResult, subject: ExperimentSpec) -> OperatorCommand:
    """Return the order that brings an experiment, of which nothing else is known any more, to where it has ended."""
    word, needed = brings(verdict)
    weights = dict(zip(subject.arms, needed, strict=False))
    return OperatorCommand(
        word=word, author="the verdict of before", at_us=now_us(), weights=weights, experiment=subject.experiment
    )


def brings(verdict: ExperimentResult) -> tuple[Word, tuple[float, ...]]:
    """Return the word that brings an experiment to this end, and the weights if it needs some."""
    word = ENDS.get(verdict.phase, "set")
    return word, verdict.weights if word == "set" else ()
