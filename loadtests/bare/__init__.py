"""Baselines: the bare client libraries, without our packages."""
