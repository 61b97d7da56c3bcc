"""Tests of the settings, the command line and the processes that it starts."""
