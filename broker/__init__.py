"""Channels of messages and every contract on them."""
