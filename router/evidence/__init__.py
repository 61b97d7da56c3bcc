"""Reports from an endpoint's event log, which is read by the learner's own fold."""
