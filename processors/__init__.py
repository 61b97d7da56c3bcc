"""Models at work: from a queue through a runtime to the answer."""
