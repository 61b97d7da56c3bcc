"""The parts that all routes share: the broker, the view, pending requests, readiness, metrics."""
