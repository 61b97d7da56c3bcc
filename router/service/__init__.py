"""The router for clients of the queue."""
