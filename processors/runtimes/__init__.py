"""What computes a model: one file for each kind of runtime."""
