"""Models behind queues: what they are, how they load, and how requests run through them."""
