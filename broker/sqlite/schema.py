"""The tables of the embedded broker.

`waiting` is narrow on purpose: a take rewrites its rows, and must not rewrite bodies. Its `owner` is READY for a
message that can be taken, ASLEEP for a delayed one, and otherwise the id of the process in `owners` that holds it.
"""

from __future__ import annotations

from broker.support.database import Schema

READY = 0
ASLEEP = -1
_TABLES = """
CREATE TABLE IF NOT EXISTS channels (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    owner INTEGER,                          -- of a transient queue: deleted with its process
    limit_messages INTEGER NOT NULL, limit_bytes INTEGER NOT NULL,
    requests INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    next_offset INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS waiting (
    id INTEGER PRIMARY KEY AUTOINCREMENT, channel INTEGER NOT NULL, owner INTEGER NOT NULL,
    ready_at_us INTEGER NOT NULL, came_back INTEGER NOT NULL, priority INTEGER NOT NULL,
    count INTEGER NOT NULL, size INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS ready ON waiting (channel, priority DESC, id, count) WHERE owner = 0;
CREATE INDEX IF NOT EXISTS asleep ON waiting (ready_at_us) WHERE owner = -1;
CREATE INDEX IF NOT EXISTS owned ON waiting (owner) WHERE owner > 0;
CREATE TABLE IF NOT EXISTS payload (
    id INTEGER PRIMARY KEY, header BLOB NOT NULL, body BLOB NOT NULL, properties BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    channel INTEGER NOT NULL, offset INTEGER NOT NULL, at_us INTEGER NOT NULL,
    body BLOB NOT NULL, properties BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS by_offset ON records (channel, offset);
CREATE TABLE IF NOT EXISTS owners (id INTEGER PRIMARY KEY AUTOINCREMENT, port INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS listeners (
    channel TEXT NOT NULL, owner INTEGER NOT NULL, port INTEGER NOT NULL,
    PRIMARY KEY (channel, owner)) WITHOUT ROWID;
-- A file that replaces a removed one must not use its ids again: deliveries from the removed one still have them.
INSERT INTO sqlite_sequence SELECT name, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000
    FROM (SELECT 'waiting' AS name UNION SELECT 'owners') AS new
    WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE sqlite_sequence.name = new.name);
"""

SCHEMA = Schema("the embedded broker", "broker.url", version=1, tables=_TABLES)
