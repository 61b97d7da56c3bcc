"""Measures how fast SQLite itself commits rows: the baseline of the embedded broker. Imports none of our packages."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

HEADER_BYTES = 120


def rate(folder: Path, messages: int, size: int, batch: int) -> float:
    """Measure the rows per second, written in batches with one durable commit each."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE waiting (id INTEGER PRIMARY KEY, header BLOB, body BLOB)")
    row = (b"h" * HEADER_BYTES, b"x" * size)
    began_s = time.perf_counter()
    for _ in range(0, messages, batch):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO waiting (header, body) VALUES (?, ?)", [row] * batch)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - began_s
    connection.close()
    return messages / seconds


def main() -> None:
    """Measure in a temporary folder next to the given file, on the same disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("beside", type=Path)
    parser.add_argument("messages", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("batch", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.beside.parent) as folder:
        figures = {"rate": rate(Path(folder), options.messages, options.size, options.batch)}
    sys.stdout.write(json.dumps(figures | {"server": f"SQLite {sqlite3.sqlite_version}"}) + "\n")


if __name__ == "__main__":
    main()
