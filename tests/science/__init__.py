"""The numbers that policies, canaries and estimates are held to, measured: `make science`."""
