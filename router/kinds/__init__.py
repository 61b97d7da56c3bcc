"""The kinds of policies and bandits: one file each, named in `router/declaration/registry.py`."""
