"""Tests of learning from the log."""
