"""What there is to monitor: a fold of the `declared` and `status` logs."""

from __future__ import annotations

from broker.declared import read_declared
from broker.messages import Record
from broker.status import read_status


class Known:
    """Endpoints that are or may be addressed, and the model versions that were ever announced or declared."""

    def __init__(self) -> None:
        self._targets: dict[str, set[tuple[str, int]]] = {}
        self._announced: set[tuple[str, int]] = set()

    def fold_declared(self, record: Record) -> None:
        """Take in a record of the `declared` log."""
        declared = read_declared(record)
        if declared is None:
            return
        if declared.declaration is None:
            self._targets.pop(declared.endpoint, None)
            return
        arms = declared.declaration.arms.values()
        self._targets[declared.endpoint] = {(target.model, target.version) for target in arms}

    def fold_status(self, record: Record) -> None:
        """Take in a record of the `status` log."""
        said = read_status(record)
        if said is not None and said.part == "replica":
            self._announced.add((said.model, said.version))

    def endpoints(self) -> set[str]:
        """Return declared endpoints, and models that none of them claims: these are served under their own names."""
        claimed = {model for targets in self._targets.values() for model, _ in targets}
        return {*self._targets, *(model for model, _ in self._announced if model not in claimed)}

    def versions(self) -> set[tuple[str, int]]:
        """Return (model, version) pairs."""
        return self._announced.union(*self._targets.values())
