"""Tests of the embedded broker alone."""
