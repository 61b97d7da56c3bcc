"""What the logs say now: endpoints, arms, weights, members."""
