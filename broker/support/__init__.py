"""Helpers without knowledge of a channel's content: tasks, files, databases, parsing of settings."""
