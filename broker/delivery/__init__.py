"""Sending and settling on top of the port: bundles, acks, replies, rows, heartbeats, log followers."""
