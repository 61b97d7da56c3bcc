"""Readers of the event logs: windows, metrics, drift."""
