"""Merging the lists of several rankers into one answer."""
