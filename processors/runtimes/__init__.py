"""Runtimes, which load and compute models: one module for each."""
