"""`make science`: measures policies, canaries and estimates, and compares them with known results."""
