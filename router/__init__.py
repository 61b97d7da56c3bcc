"""Which arm gets a request, and with what probability."""
