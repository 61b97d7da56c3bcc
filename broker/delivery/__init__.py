"""Publishing and settling on top of the port: bundles, acks, replies, prediction rows, heartbeats, log followers."""
