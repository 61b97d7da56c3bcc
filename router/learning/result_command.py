"""The operator command that brings an experiment to a result that is known from before."""

from __future__ import annotations

from collections.abc import Mapping

from broker.protocol.ids import now_us
from broker.records.routing import ExperimentResult, OperatorCommand, Word
from router.learning.experiment import ExperimentSpec

COMMANDS: Mapping[str, Word] = {
    "promoted": "promote",
    "aborted": "abort",
    "timed out": "abort",
    "starved": "abort",
    "ended without a winner": "abort",
}
"""The command for each final phase; `set` for any other."""


def command_to_restore(result: ExperimentResult, spec: ExperimentSpec) -> OperatorCommand:
    """Return the command that brings an experiment without any state to its known result."""
    word, weights = restored_weights(result)
    return OperatorCommand(
        word=word,
        author="the verdict of before",
        at_us=now_us(),
        weights=dict(zip(spec.arms, weights, strict=False)),
        experiment=spec.experiment,
    )


def restored_weights(result: ExperimentResult) -> tuple[Word, tuple[float, ...]]:
    """Return the word of the command for a result, and the weights if the word is `set`."""
    word = COMMANDS.get(result.phase, "set")
    return word, result.weights if word == "set" else ()
