"""What all routes share: the broker, the view, pending answers, readiness, metrics."""
