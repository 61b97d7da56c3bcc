"""The embedded broker: one SQLite file, several processes, nothing to install."""
