"""Readers of the event logs: Prometheus metrics, queue depths, and monitors of other packages."""
