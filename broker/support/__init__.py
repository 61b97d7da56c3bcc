"""Helpers without knowledge of messages' content: tasks, files, databases, parsing of settings."""
