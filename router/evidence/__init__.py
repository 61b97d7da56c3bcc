"""What an endpoint's event log is evidence of: read by the learner's own fold, then asked."""
