"""Rows out of SQLite without its types: what a column holds is known from the schema, not by a type checker."""

from __future__ import annotations

from typing import Any

import apsw


def fetch_all(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> list[Any]:
    """Return all rows of a statement."""
    return connection.execute(sql, bindings).fetchall()


def fetch_one(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> Any:
    """Return the first row of a statement, or None."""
    return connection.execute(sql, bindings).fetchone()


def run(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> None:
    """Run a statement for its effect."""
    connection.execute(sql, bindings)
