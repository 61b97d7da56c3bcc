"""Simulations that call the policies' own functions with many runs at once."""
