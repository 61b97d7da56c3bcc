"""Comparing rankers by one list merged from several rankings: clicks credit the rankers that placed the item."""
