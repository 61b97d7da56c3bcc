"""Learning from the event log: a fold, the ledger that keeps it, and the service that leads."""
