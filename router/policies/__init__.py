"""Policies, one a file, behind the protocol in base.py."""
