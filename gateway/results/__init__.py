"""Stored requests: asynchronous ones, and those with an idempotency key."""
