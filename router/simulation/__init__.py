"""Environments that drive the product's own policy functions along their axis of runs."""
