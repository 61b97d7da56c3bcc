"""The embedded broker: what only it has."""
