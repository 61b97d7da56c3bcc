"""Decides which model answers a request, and learns from what follows."""
