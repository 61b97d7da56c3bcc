"""Draws the arm that gets a request, with a known probability, and learns from rewards."""
