"""Draws the arm that gets a request."""
