"""The Open Inference Protocol in front of the queues."""
