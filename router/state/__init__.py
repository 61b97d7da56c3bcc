"""The present state of an installation from its logs: endpoints, model versions, weights, processes."""
