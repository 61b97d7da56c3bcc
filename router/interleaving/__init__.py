"""Comparing rankers by one list made of several rankings: who gets a click is what tells them apart."""
