"""Deciding which arm gets a request."""
