"""Tests of the settings, the command line and what it runs."""
