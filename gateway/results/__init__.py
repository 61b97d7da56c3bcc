"""Requests whose answers are stored: asynchronous ones, and those with an idempotency key."""
