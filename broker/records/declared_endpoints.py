"""The endpoints that are declared now: a fold of the `declared` log."""

from __future__ import annotations

from broker.messages import Record
from broker.records.declared import EndpointDeclaration, read_declared
from broker.records.endpoint import Endpoint


class DeclaredEndpoints:
    """Endpoints by name. `changes` counts the declarations and deletions that were folded."""

    def __init__(self) -> None:
        self.by_name: dict[str, Endpoint] = {}
        self.changes = 0

    def fold(self, record: Record) -> EndpointDeclaration | None:
        """Fold a record of the log; return the declaration in it, None if it has another kind."""
        declared = read_declared(record)
        if declared is None:
            return None
        self.changes += 1
        if declared.declaration is None:
            self.by_name.pop(declared.endpoint, None)
        else:
            self.by_name[declared.endpoint] = declared.declaration
        return declared
