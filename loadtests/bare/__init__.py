"""Baselines that import nothing of ours: what the bare client library does."""
